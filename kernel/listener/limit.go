package listener

import (
	"cmp"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/policy-engine/policy-engine/fastpath/memory"
)

// Reasons for which a connection is refused or closed.
const (
	// Full is a connection too many, where none can be closed to make room.
	Full = "limit"
	// PeerFull is a connection too many of one peer.
	PeerFull = "peer_limit"
	// NoDescriptors is a connection that could not be accepted because the process has no file descriptor left.
	NoDescriptors = "descriptors"
	// Evicted is a connection that was closed to make room for another one.
	Evicted = "evicted"
)

// Limits bound the connections of a listener.
type Limits struct {
	// Max is how many may be open, PerPeer how many of them from one peer (memory.Peer). The peers of a Unix socket share Max alone.
	Max, PerPeer int
	// Grace is how long a connection that has asked for something may go without any answer before it may be closed to make room, and Stall how long without a further one.
	Grace, Stall time.Duration
	// Report is called for each connection that is refused or closed, with one of the reasons. It must not block.
	Report func(reason string, peer net.Addr)
}

// Limited is a listener with a bound of its connections. When a connection is one too many, one that is of no use makes room for it: first those that never asked for anything, the oldest first;
// then those that were asking for longer than the grace time and never got an answer; then those that are idle, the longest idle first; then those that hold requests open of which none was
// answered for the stall time. A connection that is answering requests is never closed. So neither connections without requests nor requests that are held open lock out a client that connects again.
type Limited struct {
	net.Listener
	limits Limits

	mu    sync.Mutex
	conns map[*Conn]struct{}
	peers map[string]int
}

// Limit bounds the connections of l.
func Limit(l net.Listener, limits Limits) *Limited {
	return &Limited{Listener: l, limits: limits, conns: make(map[*Conn]struct{}), peers: make(map[string]int)}
}

// Open is how many connections are open.
func (l *Limited) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// Accept waits for the next connection that there is room for; it is a *Conn.
func (l *Limited) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
				l.limits.Report(NoDescriptors, nil)
				l.evict("")
			}
			return nil, err
		}
		if c := l.admit(nc); c != nil {
			return c, nil
		}
		_ = nc.Close()
	}
}

// admit makes room for a connection, or returns nil.
func (l *Limited) admit(nc net.Conn) *Conn {
	peer := memory.Peer(nc.RemoteAddr())
	c := &Conn{Conn: nc, owner: l, peer: peer, opened: time.Now()}
	for {
		l.mu.Lock()
		reason, among := "", ""
		switch {
		case l.peers[peer] >= l.limits.PerPeer && nc.RemoteAddr().Network() != "unix":
			reason, among = PeerFull, peer
		case len(l.conns) >= l.limits.Max:
			reason = Full
		default:
			l.conns[c] = struct{}{}
			l.peers[peer]++
			l.mu.Unlock()
			return c
		}
		l.mu.Unlock()
		if !l.evict(among) {
			l.limits.Report(reason, nc.RemoteAddr())
			return nil
		}
	}
}

// evict closes the connection that is of the least use, of one peer or of all. It reports false if all are of use.
func (l *Limited) evict(peer string) bool {
	l.mu.Lock()
	conns := make([]*Conn, 0, len(l.conns))
	for c := range l.conns {
		if peer == "" || c.peer == peer {
			conns = append(conns, c)
		}
	}
	l.mu.Unlock()
	now := time.Now()
	var victim *Conn
	var least rank
	for _, c := range conns {
		if r := c.rank(now, l.limits); r.class < inUse && (victim == nil || r.compare(least) < 0) {
			victim, least = c, r
		}
	}
	if victim == nil {
		return false
	}
	if victim.remove() { // Else it has ended meanwhile, which is as good.
		l.limits.Report(Evicted, victim.RemoteAddr())
		_ = victim.Conn.Close()
	}
	return true
}

// Classes of connections by their use, the least first.
const (
	neverAsked = iota
	neverAnswered
	idle
	stalled
	inUse
)

// rank is how much a connection is of use.
type rank struct {
	class int
	since time.Time
}

func (r rank) compare(other rank) int {
	return cmp.Or(cmp.Compare(r.class, other.class), r.since.Compare(other.since))
}

// Conn is a connection of a Limited.
type Conn struct {
	net.Conn
	owner  *Limited
	peer   string
	opened time.Time

	usage  atomic.Pointer[func() (active, served bool, since time.Time)]
	active atomic.Int64
	served atomic.Bool
	since  atomic.Int64 // when a request began, was answered or ended last, in nanoseconds of the Unix epoch
}

// Track sets what tells the use of the connection, in place of Begin, Answered and End (h2.Tracked).
func (c *Conn) Track(usage func() (active, served bool, since time.Time)) { c.usage.Store(&usage) }

// Begin notes that a request has begun.
func (c *Conn) Begin() {
	c.since.Store(time.Now().UnixNano())
	c.active.Add(1)
}

// Answered notes that a request of the connection was answered, or is one that may take its time.
func (c *Conn) Answered() {
	c.since.Store(time.Now().UnixNano())
	c.served.Store(true)
}

// End notes that a request that has begun is over.
func (c *Conn) End() {
	c.since.Store(time.Now().UnixNano())
	c.active.Add(-1)
}

func (c *Conn) rank(now time.Time, limits Limits) rank {
	active, served, since := c.active.Load() > 0, c.served.Load(), time.Unix(0, c.since.Load())
	if usage := c.usage.Load(); usage != nil {
		active, served, since = (*usage)()
	}
	switch {
	case !served && !active:
		return rank{neverAsked, c.opened}
	case !served && now.Sub(c.opened) >= limits.Grace:
		return rank{neverAnswered, c.opened}
	case !active:
		return rank{idle, since}
	case served && limits.Stall > 0 && now.Sub(since) >= limits.Stall:
		return rank{stalled, since}
	}
	return rank{class: inUse}
}

// remove takes the connection out of its listener's count; it reports whether it was there.
func (c *Conn) remove() bool {
	l := c.owner
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.conns[c]; !ok {
		return false
	}
	delete(l.conns, c)
	if l.peers[c.peer]--; l.peers[c.peer] == 0 {
		delete(l.peers, c.peer)
	}
	return true
}

// Close closes the connection.
func (c *Conn) Close() error {
	c.remove()
	return c.Conn.Close()
}

// SyscallConn gives access to the socket.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return sc.SyscallConn()
}

// CloseWrite closes our side.
func (c *Conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}
