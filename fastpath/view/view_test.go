package view

import (
	"testing"
	"unsafe"
)

func TestString(t *testing.T) {
	b := []byte("header")
	s := String(b)
	if s != "header" || unsafe.StringData(s) != unsafe.SliceData(b) {
		t.Errorf("String(%q) is %q, or a copy", b, s)
	}
	if got := String(b[1:3]); got != "ea" {
		t.Errorf("part: got %q", got)
	}
	for name, empty := range map[string][]byte{"nil": nil, "empty": {}, "empty with capacity": b[:0]} {
		if String(empty) != "" {
			t.Errorf("%s is not the empty string", name)
		}
	}
}

func TestBytes(t *testing.T) {
	s := "header"
	b := Bytes(s)
	if string(b) != s || unsafe.SliceData(b) != unsafe.StringData(s) {
		t.Errorf("Bytes(%q) is %q, or a copy", s, b)
	}
	if cap(b) != len(s) {
		t.Errorf("capacity %d: an append would write past the string of length %d", cap(b), len(s))
	}
	if got := Bytes(""); len(got) != 0 {
		t.Errorf("the empty string shows as %q", got)
	}
}

func TestNoAllocations(t *testing.T) {
	b, s := []byte("a value that is long enough for the heap"), "and another one, of about the same length"
	var n int
	if got := testing.AllocsPerRun(100, func() { n += len(String(b)) + len(Bytes(s)) }); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}
