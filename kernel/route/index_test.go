package route

import (
	"fmt"
	"hash/maphash"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestIndexIsLikeAMap compares with a map, also where the hash is so bad that all names, or many, share a bucket.
func TestIndexIsLikeAMap(t *testing.T) {
	seed := maphash.MakeSeed()
	for _, tc := range []struct {
		name string
		hash func(string) uint64
	}{
		{"real hash", func(s string) uint64 { return maphash.String(seed, s) }},
		{"one bucket, the first", func(string) uint64 { return 0 }},
		{"one bucket, the last", func(string) uint64 { return ^uint64(0) }},
		{"buckets by length", func(s string) uint64 { return uint64(len(s)) << 61 }},
		{"only lower bits differ", func(s string) uint64 { return maphash.String(seed, s) >> 32 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// Few letters and lengths, so that names are prefixes of others; an empty one too.
			name := rapid.StringMatching(`[ab\x00]{0,4}`)
			rapid.Check(t, func(t *rapid.T) {
				names := rapid.SliceOfNDistinct(name, 0, 60, rapid.ID[string]).Draw(t, "names")
				want, hashes := map[string]int{}, make([]uint64, len(names))
				for i, n := range names {
					want[n], hashes[i] = i, tc.hash(n)
				}
				var x index
				x.fill(names, hashes)
				asked := append(rapid.SliceOf(name).Draw(t, "asked"), names...)
				for _, n := range asked {
					i, ok := want[n]
					if !ok {
						i = -1
					}
					if got := x.findHashed(n, tc.hash(n)); got != i {
						t.Fatalf("%q is number %d, want %d", n, got, i)
					}
				}
			})
		})
	}
}

func TestIndex(t *testing.T) {
	long := strings.Repeat("x", 1<<17)
	names := append(routeNames(1000), "", "ü", long, long+"y")
	x := newIndex(names)
	for i, n := range names {
		if got := x.find(n); got != i {
			t.Errorf("%.20q is number %d, want %d", n, got, i)
		}
	}
	for _, n := range []string{"tenant-1000-orders", "tenant-1-order", "tenant-1-orders\x00", "\x00", "u", long[1:], long + "z"} {
		if got := x.find(n); got != -1 {
			t.Errorf("%.20q is number %d", n, got)
		}
	}
	none := newIndex(nil)
	if got := none.find(""); got != -1 {
		t.Errorf("an index without names has one: %d", got)
	}
}

// BenchmarkFind is the index against a map, on names in an order that no cache foresees. They are asked for as a request brings them: its bytes were touched just before.
func BenchmarkFind(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000, 100_000} {
		names := routeNames(n)
		asked := newQuestions(names)
		b.Run(fmt.Sprintf("index/routes=%d", n), func(b *testing.B) {
			x := newIndex(names)
			b.ReportAllocs()
			for b.Loop() {
				if x.find(asked.next()) < 0 {
					b.Fatal("unknown")
				}
			}
			b.ReportMetric(float64(4*len(x.begins)+len(x.records))/float64(n), "B/route")
		})
		b.Run(fmt.Sprintf("map/routes=%d", n), func(b *testing.B) {
			m := make(map[string]int, n)
			for i, name := range names {
				m[name] = i
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := m[asked.next()]; !ok {
					b.Fatal("unknown")
				}
			}
		})
	}
}

// questions are names in random order, one after the other in memory, so that they are in the cache when they are asked for.
type questions struct {
	text string
	ends []int
	i    int
}

func newQuestions(names []string) *questions {
	q := &questions{}
	var text strings.Builder
	// A multiple of a prime that does not divide the number visits all of them, and none near the one before.
	for i := range names {
		text.WriteString(names[i*7919%len(names)])
		q.ends = append(q.ends, text.Len())
	}
	q.text = text.String()
	return q
}

func (q *questions) next() string {
	begin := 0
	if q.i > 0 {
		begin = q.ends[q.i-1]
	}
	name := q.text[begin:q.ends[q.i]]
	if q.i++; q.i == len(q.ends) {
		q.i = 0
	}
	return name
}
