package headername

import "slices"

// Set is an immutable set of names, each with all its spellings. A nil Set is empty.
type Set struct {
	// hashes has, for each length of a name, a bit for each hash of the set's names: most names of requests end here.
	hashes [maxIndexed]uint64
	// byLength are the folded names of each length; long are those of maxIndexed bytes and more.
	byLength [maxIndexed][]string
	long     []string
	names    []string
}

const maxIndexed = 64

// NewSet makes a set; names may have any spelling, and the same one several times.
func NewSet(names []string) *Set {
	s := &Set{names: make([]string, 0, len(names))}
	for _, name := range names {
		if name != "" {
			s.names = append(s.names, Fold(name))
		}
	}
	slices.Sort(s.names)
	s.names = slices.Compact(s.names)
	for _, name := range s.names {
		n := len(name)
		if n >= maxIndexed {
			s.long = append(s.long, name)
			continue
		}
		s.hashes[n] |= 1 << hash(name)
		s.byLength[n] = append(s.byLength[n], name)
	}
	return s
}

// Names returns the names, folded and sorted. The caller must not change the slice.
func (s *Set) Names() []string {
	if s == nil {
		return nil
	}
	return s.names
}

// Len is how many names there are.
func (s *Set) Len() int { return len(s.Names()) }

// Has reports whether the set has the name, in whatever spelling. A pseudo-header is in no set. It does not allocate.
func (s *Set) Has(name []byte) bool {
	n := len(name)
	// Fast path: no name of that length has these letters.
	if s == nil || n == 0 || n < maxIndexed && (s.hashes[n] == 0 || s.hashes[n]>>hash(name)&1 == 0) {
		return false
	}
	// Slow path.
	return name[0] != ':' && s.find(name)
}

func (s *Set) find(name []byte) bool {
	candidates := s.long
	if len(name) < maxIndexed {
		candidates = s.byLength[len(name)]
	}
	for _, candidate := range candidates {
		if Equal(name, candidate) {
			return true
		}
	}
	return false
}

// hash is of three characters that tell names of one length apart: x-user-id and x-api-key begin alike. It is below 64.
func hash[T ~string | ~[]byte](name T) uint {
	n := len(name)
	return (uint(folded[name[n/4]]) + 5*uint(folded[name[n/2]]) + 11*uint(folded[name[n-1]])) & 63
}
