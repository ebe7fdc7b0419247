package listener

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// at is a connection of a peer that nobody uses.
type at struct {
	net.Conn
	peer   net.Addr
	closed bool
}

func (c *at) RemoteAddr() net.Addr { return c.peer }
func (c *at) Close() error         { c.closed = true; return nil }

// source is a listener whose connections and errors come from a channel.
type source struct {
	net.Listener
	next chan any
}

func (s source) Accept() (net.Conn, error) {
	switch v := (<-s.next).(type) {
	case net.Conn:
		return v, nil
	case error:
		return nil, v
	}
	return nil, net.ErrClosed
}

type reports struct {
	mu    sync.Mutex
	count map[string]int
}

func (r *reports) add(reason string, _ net.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count[reason]++
}

func from(ip string) *at { return &at{peer: &net.TCPAddr{IP: net.ParseIP(ip), Port: 1}} }

// TestWhoMakesRoom: of all connections, the one of the least use is closed for a new one, and none that answers requests.
func TestWhoMakesRoom(t *testing.T) {
	r := &reports{count: map[string]int{}}
	l := Limit(source{}, Limits{Max: 4, PerPeer: 4, Grace: time.Minute, Report: r.add})
	add := func(name string) *Conn {
		t.Helper()
		c := l.admit(from(name))
		if c == nil {
			t.Fatalf("%s is refused", name)
		}
		return c
	}
	closed := func(c *Conn) bool { return c.Conn.(*at).closed }
	busy := add("192.0.2.1")
	busy.Begin()
	busy.Answered()
	idleFirst, idleLast := add("192.0.2.2"), add("192.0.2.3")
	for _, c := range []*Conn{idleFirst, idleLast} {
		c.Begin()
		c.Answered()
		c.End()
	}
	never := add("192.0.2.4")
	asking := add("192.0.2.5")
	if !closed(never) {
		t.Error("the connection that never asked for anything stays")
	}
	asking.Begin() // Without an answer: after the grace time, it comes before those that are idle.
	asking.opened = time.Now().Add(-2 * time.Minute)
	late := add("192.0.2.6")
	late.Begin()
	late.Answered()
	if !closed(asking) {
		t.Error("the connection that never got an answer stays")
	}
	fourth := add("192.0.2.7")
	fourth.Begin()
	if !closed(idleFirst) || closed(idleLast) {
		t.Error("the connection that was idle for longest stays")
	}
	fifth := add("192.0.2.8")
	fifth.Begin()
	if !closed(idleLast) {
		t.Error("the other idle connection stays")
	}
	if l.admit(from("192.0.2.9")) != nil || closed(busy) || closed(late) || closed(fourth) {
		t.Error("a connection in use was closed")
	}
	if l.Open() != 4 || r.count[Evicted] != 4 || r.count[Full] != 1 {
		t.Errorf("%d open, %v", l.Open(), r.count)
	}
	for _, c := range []*Conn{busy, late, fourth, fifth, fifth} {
		_ = c.Close()
	}
	if l.Open() != 0 || len(l.peers) != 0 {
		t.Errorf("%d open, %v", l.Open(), l.peers)
	}
}

// TestHeldRequestsMakeRoom: of connections that hold requests open, the one whose last answer is the oldest makes room, and none that was answered within the stall time.
func TestHeldRequestsMakeRoom(t *testing.T) {
	r := &reports{count: map[string]int{}}
	l := Limit(source{}, Limits{Max: 3, PerPeer: 3, Grace: time.Minute, Stall: time.Minute, Report: r.add})
	held := make([]*Conn, 3)
	for i := range held {
		held[i] = l.admit(from("192.0.2.1"))
		held[i].Begin()
		held[i].Answered()
	}
	if l.admit(from("192.0.2.1")) != nil {
		t.Error("connections that were just answered made room")
	}
	held[1].since.Store(time.Now().Add(-2 * time.Minute).UnixNano())
	held[2].since.Store(time.Now().Add(-3 * time.Minute).UnixNano())
	again := l.admit(from("192.0.2.1"))
	if again == nil || !held[2].Conn.(*at).closed || held[1].Conn.(*at).closed {
		t.Fatal("not the oldest answer made room")
	}
	again.Begin()
	held[1].Begin() // A new request is time to answer it.
	if l.admit(from("192.0.2.1")) != nil || held[1].Conn.(*at).closed {
		t.Error("a connection with a new request was closed")
	}
	if r.count[Evicted] != 1 || r.count[PeerFull] != 2 {
		t.Errorf("%v", r.count)
	}
}

// TestPeerMakesRoomForItself: a peer at its share costs nobody else a connection.
func TestPeerMakesRoomForItself(t *testing.T) {
	r := &reports{count: map[string]int{}}
	l := Limit(source{}, Limits{Max: 10, PerPeer: 2, Grace: time.Minute, Report: r.add})
	other := l.admit(from("192.0.2.1"))
	first := l.admit(from("2001:db8::1"))
	second := l.admit(from("2001:db8::2")) // The same /64.
	second.Begin()
	third := l.admit(from("2001:db8::3"))
	if third == nil || !first.Conn.(*at).closed || other.Conn.(*at).closed {
		t.Error("not the peer's own connection made room")
	}
	third.Begin()
	if l.admit(from("2001:db8::4")) != nil || r.count[PeerFull] != 1 {
		t.Errorf("a third connection in use: %v", r.count)
	}
	unix := &at{peer: &net.UnixAddr{Name: "@", Net: "unix"}}
	for range 5 {
		if c := l.admit(unix); c == nil {
			t.Error("a Unix socket has shares of peers")
		} else {
			c.Begin()
		}
	}
}

// TestNoDescriptors: where the process has no descriptor left, a connection that is of no use gives its own back.
func TestNoDescriptors(t *testing.T) {
	r := &reports{count: map[string]int{}}
	s := source{next: make(chan any, 4)}
	l := Limit(s, Limits{Max: 10, PerPeer: 10, Grace: time.Minute, Report: r.add})
	idle := l.admit(from("192.0.2.1"))
	s.next <- &net.OpError{Op: "accept", Err: syscall.EMFILE}
	if _, err := l.Accept(); !errors.Is(err, syscall.EMFILE) || !idle.Conn.(*at).closed || r.count[NoDescriptors] != 1 {
		t.Errorf("%v, %v", err, r.count)
	}
	good := from("192.0.2.2")
	s.next <- good
	if c, err := l.Accept(); err != nil || c.(*Conn).Conn != net.Conn(good) {
		t.Errorf("%v, %v", c, err)
	}
}
