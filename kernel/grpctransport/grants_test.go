package grpctransport

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestGrantsAreCutOut: however the frames of grpc-go are cut, all but the grants of long messages are written as they
// are, and between frames is where frames end.
func TestGrantsAreCutOut(t *testing.T) {
	frame := func(typ byte, n int) []byte {
		return append([]byte{byte(n >> 16), byte(n >> 8), byte(n), typ, 0, 0, 0, 0, 7}, bytes.Repeat([]byte{typeWindowUpdate}, n)...)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var in, want []byte
		var waiting []grant
		for range 1 + r.IntN(20) {
			switch r.IntN(4) {
			case 0:
				g := grant{stream: uint32(r.IntN(3)), bytes: streamWindow + uint32(r.IntN(2))}
				in = g.append(in)
				if g.stream == 0 || g.bytes <= streamWindow {
					want = g.append(want)
				} else {
					waiting = append(waiting, g)
				}
			default:
				f := frame(byte(r.IntN(8)), r.IntN(30))
				in, want = append(in, f...), append(want, f...)
			}
		}
		var g grants
		var out []byte
		for len(in) > 0 {
			n := 1 + r.IntN(min(len(in), 40))
			out, in = g.cut(out, in[:n]), in[n:]
			if written := out; g.between() && !endsWithFrame(written) {
				t.Fatalf("between frames after %x", written)
			}
		}
		if !bytes.Equal(out, want) || !slices.Equal(g.waiting, waiting) || !g.between() {
			t.Fatalf("written %x, want %x; waiting %v, want %v", out, want, g.waiting, waiting)
		}
	}
}

// endsWithFrame reports whether b consists of whole frames.
func endsWithFrame(b []byte) bool {
	for len(b) >= headerLen {
		n := headerLen + int(b[0])<<16 + int(b[1])<<8 + int(b[2])
		if n > len(b) {
			return false
		}
		b = b[n:]
	}
	return len(b) == 0
}
