package contentcoding

import (
	"errors"
	"slices"
	"testing"
)

// TestAppend: lists, lines, case and spaces; what is not known, or too much, is an error.
func TestAppend(t *testing.T) {
	for _, tc := range []struct {
		name    string
		lines   []string
		want    []Coding
		unknown bool
	}{
		{name: "none", lines: nil},
		{name: "empty", lines: []string{""}},
		{name: "identity", lines: []string{"identity"}},
		{name: "identities", lines: []string{"identity, IDENTITY,", " ,identity"}},
		{name: "gzip", lines: []string{"gzip"}, want: []Coding{Gzip}},
		{name: "upper case", lines: []string{"GZip"}, want: []Coding{Gzip}},
		{name: "x-gzip", lines: []string{"X-GZIP"}, want: []Coding{Gzip}},
		{name: "all", lines: []string{"deflate,\tbr , gzip"}, want: []Coding{Deflate, Brotli, Gzip}},
		{name: "zstd", lines: []string{"br, Zstd"}, want: []Coding{Brotli, Zstd}},
		{name: "twice", lines: []string{"gzip, gzip"}, want: []Coding{Gzip, Gzip}},
		{name: "lines", lines: []string{"gzip", "identity", "br"}, want: []Coding{Gzip, Brotli}},
		{name: "too many", lines: []string{"gzip, gzip", "gzip, gzip"}, unknown: true},
		{name: "unknown", lines: []string{"compress"}, unknown: true},
		{name: "unknown behind known", lines: []string{"gzip, compress"}, unknown: true},
		{name: "unknown on a later line", lines: []string{"identity", "x-compress"}, unknown: true},
		{name: "parameter", lines: []string{"gzip;q=1"}, unknown: true},
		{name: "letters that fold to ASCII", lines: []string{"gz\u0131p"}, unknown: true},
		{name: "quoted", lines: []string{`"gzip"`}, unknown: true},
		{name: "star", lines: []string{"*"}, unknown: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []Coding
			var err error
			for _, line := range tc.lines {
				if got, err = Append(got, []byte(line)); err != nil {
					break
				}
			}
			if tc.unknown != errors.Is(err, ErrUnknown) || !tc.unknown && (err != nil || !slices.Equal(got, tc.want)) {
				t.Errorf("%v, %v; want %v, unknown %v", got, err, tc.want, tc.unknown)
			}
		})
	}
}

// TestAppendDoesNotAllocate: the kernel reads the header of each message that has one.
func TestAppendDoesNotAllocate(t *testing.T) {
	var room [Max]Coding
	value := []byte("deflate, GZIP")
	if n := testing.AllocsPerRun(100, func() { _, _ = Append(room[:0], value) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
