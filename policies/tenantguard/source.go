package tenantguard

import (
	"bytes"

	"github.com/policy-engine/policy-engine/policies"
)

// source is where a request names its tenant: at most one of its fields is set.
type source struct {
	prefix string // of the path
	header string // in lower case
	owned  bool   // header is the one that the policy sets, in some spelling
}

type found uint8

const (
	foundOne found = iota
	foundNone
	foundAmbiguous // read as another tenant by another reader
)

func (s source) given() bool { return s.prefix != "" || s.header != "" }

// find returns the tenant that the request names. The bytes are the request's.
func (s source) find(r *policies.Request) ([]byte, found) {
	if s.header != "" {
		return s.inHeader(r)
	}
	return s.inPath(r.Path())
}

func (s source) inHeader(r *policies.Request) ([]byte, found) {
	value, _ := r.Header(s.header)
	n := r.Spellings(s.header)
	if n == 0 && s.owned {
		// The kernel has removed it, because the policy sets it for the upstream.
		value, n = r.ClientHeader(s.header)
	}
	switch {
	case n == 0:
		return nil, foundNone
	case n != 1 || !legal(value):
		return nil, foundAmbiguous
	}
	return value, foundOne
}

func (s source) inPath(path []byte) ([]byte, found) {
	path, _, _ = bytes.Cut(path, []byte{'?'})
	if ambiguous(path) {
		return nil, foundAmbiguous
	}
	rest, ok := bytes.CutPrefix(path, []byte(s.prefix))
	if !ok {
		return nil, foundNone
	}
	tenant, _, _ := bytes.Cut(rest, []byte{'/'})
	switch {
	case len(tenant) == 0:
		return nil, foundNone
	case !legal(tenant):
		return nil, foundAmbiguous
	}
	return tenant, foundOne
}

// ambiguous reports whether an upstream that normalises the path may come to another one than is read here: by resolving dot segments, merging slashes, decoding, taking a
// backslash for a slash, or cutting parameters and fragments off. Envoy normalises some of it before; this doesn't rely on that.
func ambiguous(path []byte) bool {
	if bytes.ContainsAny(path, "%\\;#") || bytes.Contains(path, []byte("//")) {
		return true
	}
	for _, c := range path {
		if c <= ' ' || c >= 0x7f { // RFC 3986 has no such characters; servers trim, drop or decode them.
			return true
		}
	}
	for segment := range bytes.SplitSeq(path, []byte{'/'}) {
		if string(segment) == "." || string(segment) == ".." {
			return true
		}
	}
	return false
}

// legal takes names of letters, digits, '-', '_' and '.' that do not begin with a dot: what means the same in a path, a header, a scope and a file name.
func legal[T string | []byte](tenant T) bool {
	if len(tenant) == 0 || len(tenant) > 128 || tenant[0] == '.' {
		return false
	}
	for i := range len(tenant) {
		switch c := tenant[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}
