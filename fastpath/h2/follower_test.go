package h2

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// feed gives bytes to a function in pieces of random lengths.
func feed(r *rand.Rand, b []byte, to func([]byte) string) string {
	for len(b) > 0 {
		n := 1 + r.IntN(min(len(b), 64))
		if reason := to(b[:n]); reason != "" {
			return reason
		}
		b = b[n:]
	}
	return ""
}

// TestFollowedFloods: a connection that is followed has the limits of one that is served, however its bytes are cut.
func TestFollowedFloods(t *testing.T) {
	repeat := func(n int, frames ...[]byte) []byte { return bytes.Repeat(slices.Concat(frames...), n) }
	opened := func(n uint32, more func(id uint32) []byte) (b []byte) {
		for id := uint32(1); id < 2*n; id += 2 {
			b = append(append(b, rawFrame(frameHeaders, flagEndHeaders, id, []byte("block"))...), more(id)...)
		}
		return b
	}
	reset := func(id uint32) []byte { return appendRSTStream(nil, id, Cancel) }
	settings := rawFrame(frameSettings, 0, 0, nil)
	for _, tt := range []struct {
		name, reason string
		in           []byte
	}{
		{"SETTINGS", ReasonSettings, repeat(1100, settings)},
		{"long SETTINGS", ReasonSettings, repeat(70, rawFrame(frameSettings, 0, 0, make([]byte, 16_380)))},
		{"PING", ReasonPings, repeat(1100, rawFrame(framePing, 0, 0, make([]byte, 8)))},
		{"PRIORITY", ReasonControl, repeat(1100, rawFrame(framePriority, 0, 1, make([]byte, 5)))},
		{"unknown frames", ReasonControl, repeat(1100, rawFrame(0x77, 0, 1, nil))},
		{"empty DATA", ReasonControl, repeat(1100, rawFrame(frameData, 0, 1, nil))},
		{"GOAWAY", ReasonControl, repeat(1100, appendGoAway(nil, 0, NoError, "a"), appendGoAway(nil, 0, EnhanceYourCalm, ""))},
		{"RST_STREAM of streams that are gone", ReasonControl, repeat(1100, reset(1))},
		{"WINDOW_UPDATE", ReasonWindows, repeat(51_000, appendWindowUpdate(nil, 0, 1))},
		{"streams that are reset", ReasonResets, opened(2100, reset)},
		{"CONTINUATION without an end", ReasonHeaders, append(rawFrame(frameHeaders, 0, 1, nil), repeat(33, rawFrame(frameContinuation, 0, 1, nil))...)},
		{"a long block", ReasonHeaders, append(rawFrame(frameHeaders, 0, 1, nil), repeat(5, rawFrame(frameContinuation, 0, 1, make([]byte, 16_000)))...)},
		{"CONTINUATION without HEADERS", ReasonHeaders, rawFrame(frameContinuation, flagEndHeaders, 1, nil)},
		{"fewer of all", "", slices.Concat(
			repeat(900, settings), repeat(40_000, appendWindowUpdate(nil, 0, 1)), opened(1900, reset),
			rawFrame(frameHeaders, 0, 9001, nil), repeat(31, rawFrame(frameContinuation, 0, 9001, nil)), rawFrame(frameContinuation, flagEndHeaders, 9001, nil),
		)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := NewFollower(64<<10, 100)
			r := rand.New(rand.NewPCG(1, 2))
			in := slices.Concat([]byte(preface), settings, tt.in)
			if got := feed(r, in, func(p []byte) string { return f.Read(p, 1) }); got != tt.reason {
				t.Errorf("the reason is %q, want %q", got, tt.reason)
			}
		})
	}
}

// TestFollowedTraffic: resets of streams that were answered are no flood, before and after the server ends them, and
// each answer pays for control frames.
func TestFollowedTraffic(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(id uint32) []byte
		more   []byte // with each reset
	}{
		{"answered", func(id uint32) []byte {
			return append(rawFrame(frameHeaders, flagEndHeaders, id, nil), rawFrame(frameData, 0, id, nil)...)
		}, nil},
		{"ended", func(id uint32) []byte { return rawFrame(frameHeaders, flagEndHeaders|flagEndStream, id, nil) }, nil},
		{"ended, with pings", func(id uint32) []byte {
			return append(rawFrame(frameHeaders, flagEndHeaders, id, nil), rawFrame(frameData, flagEndStream, id, nil)...)
		}, rawFrame(framePing, flagAck, 0, make([]byte, 8))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := NewFollower(64<<10, 100)
			in := append([]byte(preface), rawFrame(frameSettings, 0, 0, nil)...)
			var out, resets []byte
			const streams = 9000
			for id := uint32(1); id < 2*streams; id += 2 {
				in = append(in, rawFrame(frameHeaders, flagEndHeaders, id, nil)...)
				in = append(in, rawFrame(frameData, 0, id, make([]byte, 100))...)
				out = append(out, tt.answer(id)...)
				resets = append(append(resets, appendRSTStream(nil, id, NoError)...), tt.more...)
			}
			r := rand.New(rand.NewPCG(1, 2))
			read := func(p []byte) string { return f.Read(p, 1) }
			if got := feed(r, in, read); got != "" {
				t.Fatalf("requests: %q", got)
			}
			if got := f.Held(0); got < streams*100 {
				t.Errorf("%d bytes are held", got)
			}
			if got := feed(r, out, f.Write); got != "" {
				t.Fatalf("answers: %q", got)
			}
			if got := feed(r, resets, read); got != "" {
				t.Fatalf("resets: %q", got)
			}
			if f.Held(0) != 0 || len(f.streams) != 0 || f.cost != 0 {
				t.Errorf("%d streams are left, %d bytes held, the cost is %d", len(f.streams), f.Held(0), f.cost)
			}
		})
	}
}

// TestFollowedHold: what is held is what was received and not delivered, with what its buffers cost.
func TestFollowedHold(t *testing.T) {
	f := NewFollower(64<<10, 100)
	read := func(b []byte) { f.Read(b, 1) }
	read(append([]byte(preface), rawFrame(frameHeaders, flagEndHeaders, 1, nil)...))
	read(rawFrame(frameData, 0, 1, make([]byte, 2<<10)))
	read(rawFrame(frameData, 0, 3, make([]byte, 2<<10))) // Of no stream.
	for delivered, want := range map[int]int{0: 4 << 10, 1 << 10: 2 << 10, 2 << 10: 0, 4 << 10: 0} {
		if got := f.Held(delivered); got != want {
			t.Errorf("%d bytes delivered: %d are held, want %d", delivered, got, want)
		}
	}
	f.Write(appendRSTStream(nil, 1, Cancel))
	if got := f.Held(0); got != 0 {
		t.Errorf("%d bytes are held by no stream", got)
	}
	if got := f.Write(appendGoAway(nil, 0, EnhanceYourCalm, "too_many_pings")); got != ReasonPings {
		t.Errorf("GOAWAY of the server: %q", got)
	}
}
