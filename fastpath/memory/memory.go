// Package memory bounds what the connections of a server hold for their peers, all together, and shares it out so that no connection and no peer can use up what others need.
package memory

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

const (
	// unit is the granularity of accounts in bytes: what a connection holds changes with every message, and the counters that all connections share only now and then.
	unit = 32 << 10
	// slack is how much less than it is charged for a connection may hold before the difference is given back, in bytes.
	slack = 8 * unit
	// guaranteed is what a peer gets as long as there is anything, in bytes.
	guaranteed = 1 << 20
	// peerShare is how many times what is left all connections of a peer may hold together.
	peerShare = 4
	// reserve is the part of the budget, its inverse, that is kept for peers that hold no more than what is guaranteed.
	reserve = 4
)

// Budget is what all connections may hold together. It is safe for concurrent use.
//
// Of three quarters, a connection may hold as much as is left, and the connections of a peer peerShare times as much together: the first one takes half at most, and however much it asks for, the
// next finds room. The last quarter is for peers that hold little: they are refused only when nothing is left at all.
type Budget struct {
	max   int64
	used  atomic.Int64
	mu    sync.Mutex
	peers map[string]*peer
}

// peer is one address.
type peer struct {
	used     atomic.Int64
	accounts int
}

// New makes a budget of so many bytes.
func New(max int64) *Budget { return &Budget{max: max, peers: make(map[string]*peer)} }

// Used is what is held now, in bytes, in units.
func (b *Budget) Used() int64 { return b.used.Load() }

// Max is the bound, in bytes.
func (b *Budget) Max() int64 { return b.max }

// Account is what one connection holds. Its methods are called with the connection's lock held. Nil has no bound.
type Account struct {
	budget *Budget
	peer   *peer
	key    string
	held   int64
	over   bool // it holds more than it may
}

// Open makes the account of a connection of the peer. A nil budget gives nil.
func (b *Budget) Open(addr net.Addr) *Account {
	if b == nil {
		return nil
	}
	key := Peer(addr)
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peers[key]
	if p == nil {
		p = &peer{}
		b.peers[key] = p
	}
	p.accounts++
	return &Account{budget: b, peer: p, key: key}
}

// Grow charges the connection for holding n bytes. It reports false, and charges nothing, where the budget or its share does not allow it.
func (a *Account) Grow(n int) bool {
	// Fast path: nothing changes.
	if a == nil || int64(n) <= a.held {
		return true
	}
	want := (int64(n) + unit - 1) / unit * unit
	more := want - a.held
	used := a.budget.used.Add(more)
	ofPeer := a.peer.used.Add(more)
	if !a.budget.allows(used, ofPeer, want) {
		a.budget.used.Add(-more)
		a.peer.used.Add(-more)
		return false
	}
	a.held = want
	return true
}

// Set charges the connection for the n bytes that it holds, whether or not it may. It reports whether it may: a connection that may not has to refuse what would have it hold more.
func (a *Account) Set(n int) bool {
	// Fast path: nothing changes, or little.
	if a == nil || !a.over && int64(n) <= a.held && a.held-int64(n) < slack {
		return true
	}
	want := (int64(n) + unit - 1) / unit * unit
	used := a.budget.used.Add(want - a.held)
	ofPeer := a.peer.used.Add(want - a.held)
	a.held = want
	a.over = !a.budget.allows(used, ofPeer, want)
	return !a.over
}

// allows reports whether so many bytes may be in use, of a peer, and of one of its connections.
func (b *Budget) allows(used, ofPeer, ofAccount int64) bool {
	left := b.max - b.max/reserve - used
	return used <= b.max && (ofPeer <= guaranteed || ofAccount <= left && ofPeer <= peerShare*left)
}

// Close gives all back.
func (a *Account) Close() {
	if a == nil || a.peer == nil {
		return
	}
	b := a.budget
	b.used.Add(-a.held)
	a.peer.used.Add(-a.held)
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.peer.accounts--; a.peer.accounts == 0 {
		delete(b.peers, a.key)
	}
	a.held, a.peer = 0, nil
}

// Peer names the peer at an address for shares: an IPv4 address, the first 64 bits of an IPv6 address, which one host may have all of, or the kind of another address.
func Peer(addr net.Addr) string {
	if addr == nil {
		return ""
	}
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return addr.Network()
	}
	ip := at.Addr().Unmap().WithZone("")
	if ip.Is4() || ip.IsLoopback() {
		return ip.String()
	}
	prefix, err := ip.Prefix(64)
	if err != nil {
		return ip.String()
	}
	return prefix.String()
}
