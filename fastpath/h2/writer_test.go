package h2

import (
	"bytes"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
)

// long answers a message with so many long ones, of which each has its own bytes.
type long struct{ mute }

func (long) Open(*Stream, *Request) Receiver { return long{} }
func (long) AfterRead(*Conn)                 {}

var longSizes = []int{65_536, 200_000, 1, 16_379, 0, 100_000, 65_537, 300_000, 16_384, 2, 150_000, 262_144}

func longMessage(i int) []byte {
	return bytes.Repeat([]byte{byte('A' + i%50)}, longSizes[i%len(longSizes)])
}

func (long) Message(s *Stream, _ []byte) {
	for i := range 4 * len(longSizes) {
		msg := longMessage(i)
		s.SendParts(msg[:len(msg)/9], msg[len(msg)/9:])
	}
	s.Finish(nil)
}

// sequence checks that what comes is the answer of long.
type sequence struct {
	mu   sync.Mutex
	came int
	err  error
	over bool
}

func (q *sequence) Message(_ *Stream, msg []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if want := longMessage(q.came); !bytes.Equal(msg, want) && q.err == nil {
		q.err = fmt.Errorf("message %d has %d bytes, want %d, or they are others", q.came, len(msg), len(want))
	}
	q.came++
}
func (q *sequence) HalfClose(*Stream) {}
func (q *sequence) Reset(*Stream)     {}
func (q *sequence) Status(_ *Stream, code uint32, message string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.over = true
	if code != 0 && q.err == nil {
		q.err = fmt.Errorf("status %d: %s", code, message)
	}
}

// TestLongMessagesStayInOrder: what fills many buffers comes as it was sent, within the windows and beyond them, to who reads at once and to who does not.
func TestLongMessagesStayInOrder(t *testing.T) {
	noLeaks(t)
	for _, window := range []uint32{64 << 20, 100_000} {
		addr, _ := startServer(t, Config{MaxSendBuffer: 64 << 20}, long{})
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		cl := NewClient(nc, Config{StreamWindow: window, ConnWindow: 2 * window}, func() {})
		c := cl.Conn()
		answers := make([]sequence, 3)
		c.Lock()
		for i := range answers {
			cl.Open("/test/Long", &answers[i]).Send([]byte("go"))
		}
		c.Unlock()
		c.Flush()
		for i := range answers {
			q := &answers[i]
			eventually(t, "the last message", func() bool {
				q.mu.Lock()
				defer q.mu.Unlock()
				return q.over
			})
			if q.err != nil || q.came != 4*len(longSizes) {
				t.Errorf("window %d: %d messages, error %v", window, q.came, q.err)
			}
		}
		cl.Close()
	}
}

// TestLongMessagesUseBuffersAgain: sending them takes no memory that is not there yet.
func TestLongMessagesUseBuffersAgain(t *testing.T) {
	c := memoryConn(Config{}, fuzzHandler{})
	b := rawFrame(frameSettings, 0, 0, appendSetting(nil, settingInitialWindowSize, maxWindow))
	b = append(b, rawFrame(frameHeaders, flagEndHeaders, 1, fuzzBlock("/m"))...)
	b = appendWindowUpdate(b, 0, maxWindow-defaultWindow)
	if _, _, err := c.step(b); err != nil {
		t.Fatal(err)
	}
	msg := make([]byte, 64<<10)
	const messages, rounds = 20, 50
	round := func() {
		for range messages {
			c.Stream(1).Send(msg)
		}
		for c.unsent() > 0 {
			c.writer.keep(c.writer.next())
		}
	}
	round()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range rounds {
		round()
	}
	runtime.ReadMemStats(&after)
	// With the race detector on, the pool forgets some. A buffer that grows takes five times as much as it has.
	if took := (after.TotalAlloc - before.TotalAlloc) / rounds; took > 2*messages*uint64(len(msg)) {
		t.Errorf("%d bytes allocated to send %d", took, messages*len(msg))
	}
}
