package contentcoding

import (
	"bytes"
	"testing"
)

// TestNarrow: what is left of accept-encoding where a policy reads the response.
func TestNarrow(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string
		want  string // empty if it stays
	}{
		{"none", nil, ""},
		{"empty", []string{""}, ""},
		{"known", []string{"gzip, deflate, br, zstd, identity, x-gzip"}, ""},
		{"all that is accepted", []string{Accepted}, ""},
		{"known with weights", []string{"gzip;q=1.0, identity; q=0.5, *;q=0"}, ""},
		{"Chrome", []string{"gzip, deflate, br, zstd"}, ""},
		{"curl", []string{"deflate, gzip, br, zstd, dcb"}, "deflate, gzip, br, zstd"},
		{"dictionaries", []string{"gzip, br, zstd, dcb, dcz"}, "gzip, br, zstd"},
		{"several lines", []string{"dcb", "gzip", ", br;q=0.3,"}, "gzip, br;q=0.3"},
		{"case", []string{"GZIP, Compress"}, "GZIP"},
		{"nothing is left", []string{"compress"}, "identity"},
		{"any", []string{"*"}, "identity"},
		{"any other", []string{"gzip;q=0, *;q=0.5"}, "gzip;q=0"},
		{"any other, with the zero of RFC 9110", []string{"gzip, *;q=0.000"}, ""},
		{"no other, and a space", []string{"gzip, * ; q=0."}, ""},
		{"not quite zero", []string{"gzip, *;q=0.001"}, "gzip"},
		{"a weight that is none", []string{"gzip, *;q=0x"}, "gzip"},
		{"not even identity", []string{"compress, identity;q=0"}, "identity;q=0"},
		{"no coding at all", []string{"gzip, ;q=1, a b"}, "gzip"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var lines [][]byte
			for _, l := range tt.lines {
				lines = append(lines, []byte(l))
			}
			got, narrower := Narrow(lines)
			if string(got) != tt.want || narrower != (tt.want != "") {
				t.Errorf("%q, %t; want %q", got, narrower, tt.want)
			}
			if again, narrower := Narrow([][]byte{got}); narrower {
				t.Errorf("what is left is narrowed again, to %q", again)
			}
		})
	}
}

// FuzzNarrow: the outcome is a part of what came, or identity, and stays as it is.
func FuzzNarrow(f *testing.F) {
	f.Add([]byte("gzip;q=1.0, *;q=0, dcb"), []byte("br"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		got, narrower := Narrow([][]byte{a, b})
		if !narrower {
			return
		}
		if again, narrower := Narrow([][]byte{got}); narrower {
			t.Fatalf("%q becomes %q", got, again)
		}
		if string(got) == "identity" {
			return
		}
		for item := range items(got) {
			if !bytes.Contains(a, item) && !bytes.Contains(b, item) {
				t.Fatalf("%q is not in %q, %q", item, a, b)
			}
		}
	})
}
