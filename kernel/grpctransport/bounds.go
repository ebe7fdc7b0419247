package grpctransport

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/policy-engine/policy-engine/fastpath/h2"
	"github.com/policy-engine/policy-engine/fastpath/memory"
	"github.com/policy-engine/policy-engine/kernel/listener"
)

const (
	// streamCost is what a stream of grpc-go costs besides its messages, in bytes: goroutines, buffers, the machine.
	streamCost = 16 << 10
	// prefixLen is the length of the prefix of a gRPC message.
	prefixLen = 5
)

// bounds limit what all connections hold. grpc-go does not report what a connection holds, and does not bound floods of
// resets and of control frames: both are found in the frames that pass (h2.Follower).
type bounds struct {
	budget  *memory.Budget // nil: no bound
	held    atomic.Int64   // by all connections, in bytes
	refused func()
	ended   func(reason string, peer net.Addr)
	// maxStreams is how many streams a connection may have open.
	maxStreams uint32

	mu    sync.Mutex
	conns map[*conn]struct{}
}

func (b *bounds) exhausted() bool { return b.budget != nil && b.held.Load() > b.budget.Max() }

// overdrawn reports that a quarter more than the bound is held: then a connection that answers requests is closed, too.
func (b *bounds) overdrawn() bool {
	return b.budget != nil && b.held.Load() > b.budget.Max()+b.budget.Max()/4
}

func (b *bounds) refuse() {
	if b.refused != nil {
		b.refused()
	}
}

// tap refuses streams of a connection that holds more than its share where the memory is used up. Another connection
// finds room: the one that is of the least use is closed for it.
func (b *bounds) tap(ctx context.Context, _ *tap.Info) (context.Context, error) {
	if !b.exhausted() {
		return ctx, nil
	}
	c := connOf(ctx)
	if c == nil || c.charged.Load() > b.share() {
		b.refuse()
		return nil, status.Error(codes.ResourceExhausted, "the memory for all connections is used up")
	}
	b.relieve()
	return ctx, nil
}

// relieve ends the connection that is of the least use, if there is one that may be ended.
func (b *bounds) relieve() {
	if worst := b.worst(); worst != nil && (!worst.served.Load() || b.overdrawn()) {
		b.refuse()
		worst.abort()
	}
}

// share is what a connection may hold, in bytes, where the memory is used up.
func (b *bounds) share() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.budget.Max() / int64(2*max(1, len(b.conns)))
}

// worst returns the connection to be closed where the memory is used up, of those that hold more than their share: one
// that was never answered before others, and the one that holds the most. It returns nil if there is none.
func (b *bounds) worst() *conn {
	share := b.share()
	b.mu.Lock()
	defer b.mu.Unlock()
	var worst *conn
	for c := range b.conns {
		if c.charged.Load() <= share {
			continue
		}
		if worst == nil || worst.served.Load() && !c.served.Load() ||
			worst.served.Load() == c.served.Load() && worst.charged.Load() < c.charged.Load() {
			worst = c
		}
	}
	return worst
}

// conn is a connection that counts what it holds.
type conn struct {
	net.Conn
	raw    net.Conn // without TLS
	bounds *bounds
	// limited is the connection of the listener, without TLS; nil where the listener has no bound.
	limited *listener.Conn
	// charged is what it holds, in bytes, as counted in bounds.held.
	charged atomic.Int64
	served  atomic.Bool // a message was answered

	reported atomic.Bool

	writing sync.Mutex // before mu
	grants  grants
	out     []byte
	waits   atomic.Bool // grants wait

	mu       sync.Mutex
	follower *h2.Follower
	// taken is how many bytes of messages the handlers of open streams have done with, long those of long ones. streams is
	// how many handlers there are.
	taken, long, streams int
	closed               bool
}

// charge brings the account up to date. mu is held.
func (c *conn) charge() {
	held := int64(0)
	if !c.closed {
		held = int64(c.follower.Held(c.taken) + c.streams*streamCost)
	}
	c.bounds.held.Add(held - c.charged.Swap(held))
}

// Read ends a connection whose peer floods it, and where the memory is used up the one that is of the least use.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	reason := c.follower.Read(p[:n], int64(time.Since(epoch)))
	c.charge()
	c.mu.Unlock()
	if reason != "" {
		c.report(reason)
		c.abort()
		return 0, net.ErrClosed
	}
	if c.bounds.exhausted() {
		c.bounds.relieve()
	}
	c.next() // What was read may have ended a stream.
	return n, err
}

var epoch = time.Now()

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	reason := c.follower.Write(p)
	c.charge()
	c.mu.Unlock()
	if reason != "" {
		c.report(reason)
	}
	if err := c.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// report reports why the connection ends; the first reason counts.
func (c *conn) report(reason string) {
	if c.bounds.ended != nil && !c.reported.Swap(true) {
		c.bounds.ended(reason, c.RemoteAddr())
	}
}

// abort ends the connection without a last word, for which a peer could have us wait.
func (c *conn) abort() {
	c.forget()
	_ = c.raw.Close()
}

// Close closes the connection.
func (c *conn) Close() error {
	c.forget()
	return c.Conn.Close()
}

// forget takes the connection out of the account of all connections.
func (c *conn) forget() {
	c.bounds.mu.Lock()
	delete(c.bounds.conns, c)
	c.bounds.mu.Unlock()
	c.mu.Lock()
	c.closed = true
	c.charge()
	c.mu.Unlock()
}

// handshaker wraps the connections of a server; without TLS as with it.
type handshaker struct {
	credentials.TransportCredentials
	bounds *bounds
}

// ServerHandshake implements credentials.TransportCredentials.
func (h handshaker) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	limited, _ := raw.(*listener.Conn)
	nc, info, err := h.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	c := &conn{
		Conn: nc, raw: raw, bounds: h.bounds, limited: limited,
		follower: h2.NewFollower(maxMetadata, h.bounds.maxStreams),
	}
	h.bounds.mu.Lock()
	h.bounds.conns[c] = struct{}{}
	h.bounds.mu.Unlock()
	return c, tracked{info, c}, nil
}

// Clone implements credentials.TransportCredentials.
func (h handshaker) Clone() credentials.TransportCredentials {
	return handshaker{h.TransportCredentials.Clone(), h.bounds}
}

// tracked is the credentials.AuthInfo of a connection of ours.
type tracked struct {
	credentials.AuthInfo
	conn *conn
}

// connOf returns the connection of a call; nil if it is not one of ours.
func connOf(ctx context.Context) *conn {
	if p, ok := peer.FromContext(ctx); ok {
		if t, ok := p.AuthInfo.(tracked); ok {
			return t.conn
		}
	}
	return nil
}

// use is what a stream has taken of its connection.
type use struct {
	conn        *conn // nil if it is not followed
	taken, long int
}

// begin notes that a stream has begun.
func begin(c *conn) use {
	if c != nil {
		c.mu.Lock()
		c.streams++
		c.charge()
		c.mu.Unlock()
		if c.limited != nil {
			c.limited.Begin()
		}
	}
	return use{conn: c}
}

// done notes that the stream has done with a message of n bytes.
func (u *use) done(n int) {
	c := u.conn
	if c == nil {
		return
	}
	c.mu.Lock()
	u.taken += prefixLen + n
	c.taken += prefixLen + n
	if n > streamWindow { // It was granted.
		u.long += n
		c.long += n
	}
	c.charge()
	c.mu.Unlock()
	c.next()
}

// next sends grants after the end of a message or stream.
func (c *conn) next() {
	if c.waits.Load() {
		_ = c.grantNext() // An error shows with the next read.
	}
}

// answered notes that a message was answered.
func (u *use) answered() {
	c := u.conn
	if c == nil {
		return
	}
	if !c.served.Load() {
		c.served.Store(true)
	}
	if c.limited != nil {
		c.limited.Answered()
	}
}

// end notes that the stream has ended.
func (u *use) end() {
	c := u.conn
	if c == nil {
		return
	}
	c.mu.Lock()
	c.streams--
	c.taken -= u.taken
	c.long -= u.long
	c.charge()
	c.mu.Unlock()
	c.next()
	if c.limited != nil {
		c.limited.End()
	}
	*u = use{}
}

// unary follows the calls of the health protocol.
func unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	u := begin(connOf(ctx))
	defer u.end()
	u.answered()
	return handler(ctx, req)
}
