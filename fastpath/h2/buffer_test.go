package h2

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"
)

// taker takes every message over that it can, keeps those until it has some, and sends them back then.
type taker struct {
	t     testing.TB
	mu    sync.Mutex
	taken int
	kept  []*kept
}

type kept struct {
	buffer Buffer
	was    []byte
}

func (k *taker) Open(*Stream, *Request) Receiver { return k }
func (k *taker) AfterRead(*Conn)                 {}
func (k *taker) HalfClose(s *Stream)             { s.Finish(nil) }
func (k *taker) Reset(*Stream)                   {}

func (k *taker) Message(s *Stream, msg []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	was := bytes.Clone(msg)
	var b Buffer
	if len(k.kept) > 2 { // The memory of one that nobody needs any more.
		b, k.kept = k.kept[0].buffer, k.kept[1:]
	}
	if s.Take(&b) {
		k.taken++
		if s.Take(new(Buffer)) {
			k.t.Error("one message was taken twice")
		}
	} else {
		b.Set(msg)
	}
	if !bytes.Equal(b.Bytes(), was) {
		k.t.Errorf("a message of %d bytes is another one of %d now", len(was), len(b.Bytes()))
	}
	k.kept = append(k.kept, &kept{b, was})
	checkInvariants(k.t, s.Conn())
	s.Send([]byte("taken"))
}

// TestTake: what a receiver has taken over stays as it is, whatever comes after it, and the memory that it gave for it is used.
func TestTake(t *testing.T) {
	noLeaks(t)
	k := &taker{t: t}
	addr, srv := startServer(t, Config{}, k)
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	cl := NewClient(nc, Config{}, func() {})
	defer cl.Close()
	o := &outcomes{}
	cl.call(t, o, "short")
	sizes := []int{100_000, 17_000, 5, 300_000, 70_000, 16_379, 16_380, 0, 200_000, 65_536, 65_537}
	c := cl.Conn()
	for i, size := range sizes {
		c.Lock()
		head := strings.Repeat(string(rune('a'+i)), min(size, 7*i))
		c.Stream(1).SendParts([]byte(head), bytes.Repeat([]byte{byte('A' + i)}, size-len(head)))
		c.Unlock()
		c.Flush()
		eventually(t, "an answer", func() bool { return strings.Count(o.String(), "taken") == i+2 })
		k.mu.Lock()
		last := k.kept[len(k.kept)-1].buffer
		if want := head + strings.Repeat(string(rune('A'+i)), size-len(head)); string(last.Bytes()) != want {
			t.Errorf("message %d: %d bytes came, want %d, or they are others", i, len(last.Bytes()), len(want))
		}
		for _, m := range k.kept {
			if !bytes.Equal(m.buffer.Bytes(), m.was) {
				t.Errorf("after message %d, one of %d bytes has changed", i, len(m.was))
			}
		}
		k.mu.Unlock()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.taken < 6 {
		t.Errorf("%d messages were taken over", k.taken)
	}
	sc := only(t, srv)
	sc.Lock()
	defer sc.Unlock()
	checkInvariants(t, sc)
}

// TestTakeKeepsToTheBound: a receiver can't have a connection hold more than it may by what it gives.
func TestTakeKeepsToTheBound(t *testing.T) {
	for _, tt := range []struct {
		name           string
		message, given int
		taken, kept    bool
	}{
		{"as large", 40_000, 40_000, true, true},
		{"more than the connection may hold", 40_000, 300_000, true, false},
		{"little in a large buffer", 100, 0, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := memoryConn(Config{MaxMessageSize: 100_000, MaxReceiveBuffer: 250_000}, echoHandler{})
			s := c.newStream(1)
			s.collected = true
			s.message = make([]byte, tt.message, max(tt.message, 2*maxTaken*(1-min(1, tt.message/1000))))
			c.held = cap(s.message)
			b := Buffer{make([]byte, tt.given)}
			if got := s.Take(&b); got != tt.taken {
				t.Fatalf("Take: %t", got)
			}
			if c.held != cap(s.message) || (cap(s.message) > 0) != tt.kept {
				t.Errorf("%d bytes held, the stream has %d", c.held, cap(s.message))
			}
		})
	}
}
