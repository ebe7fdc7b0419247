package grpctransport

import (
	"context"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/policy-engine/policy-engine/fastpath/memory"
	"github.com/policy-engine/policy-engine/kernel/listener"
)

const (
	// streamCost is what a stream of grpc-go costs besides its messages, in bytes: goroutines, buffers, the machine.
	streamCost = 16 << 10
	// streamOverhead is how many bytes a stream takes on the wire besides its messages, at most on average.
	streamOverhead = 512
)

// bounds follow what all connections hold. grpc-go does not say what a connection holds: its buffers are counted as they leave the pool, for all connections together, and a connection's part is
// estimated from what was read from it and not delivered.
type bounds struct {
	budget  *memory.Budget // nil: no bound
	pool    mem.BufferPool
	buffers atomic.Int64 // capacity of the buffers that are out of the pool
	conns   atomic.Int64
	streams *atomic.Int64
	refused func()
}

// Get implements mem.BufferPool.
func (b *bounds) Get(length int) *[]byte {
	buf := b.pool.Get(length)
	b.buffers.Add(int64(cap(*buf)))
	return buf
}

// Put implements mem.BufferPool.
func (b *bounds) Put(buf *[]byte) {
	b.buffers.Add(-int64(cap(*buf)))
	b.pool.Put(buf)
}

// held is what all connections hold, in bytes.
func (b *bounds) held() int64 { return b.buffers.Load() + b.streams.Load()*streamCost }

func (b *bounds) exhausted() bool { return b.budget != nil && b.held() > b.budget.Max() }

// tap refuses streams beyond the bound.
func (b *bounds) tap(ctx context.Context, _ *tap.Info) (context.Context, error) {
	if b.exhausted() {
		if b.refused != nil {
			b.refused()
		}
		return nil, status.Error(codes.ResourceExhausted, "the memory for all connections is used up")
	}
	return ctx, nil
}

// conn is a connection that counts what is read from it.
type conn struct {
	net.Conn
	bounds *bounds
	// limited is the connection of the listener, without TLS; nil where the listener has no bound.
	limited *listener.Conn
	// unread is about how many bytes were read from the peer and not delivered in messages.
	unread atomic.Int64
	closed atomic.Bool
}

// Read ends a connection that holds more than its part where the memory for all is used up.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	unread := c.unread.Add(int64(n))
	if b := c.bounds; b.exhausted() && unread > b.budget.Max()/(2*max(1, b.conns.Load())) {
		if b.refused != nil {
			b.refused()
		}
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// Close closes the connection.
func (c *conn) Close() error {
	if !c.closed.Swap(true) {
		c.bounds.conns.Add(-1)
	}
	return c.Conn.Close()
}

// delivered notes that so many bytes were read for a purpose.
func (c *conn) delivered(n int) {
	if c.unread.Add(-int64(n)) < 0 {
		c.unread.Store(0) // It is an estimate.
	}
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
	c := &conn{Conn: nc, bounds: h.bounds, limited: limited}
	h.bounds.conns.Add(1)
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

// begin notes that a stream has begun, and returns what notes its end.
func (c *conn) begin() (end func()) {
	if c == nil {
		return func() {}
	}
	c.delivered(streamOverhead)
	if c.limited == nil {
		return func() {}
	}
	c.limited.Begin()
	return c.limited.End
}

// received notes that a message has arrived.
func (c *conn) received(n int) {
	if c != nil {
		c.delivered(n)
	}
}

// answered notes that a message was answered.
func (c *conn) answered() {
	if c != nil && c.limited != nil {
		c.limited.Answered()
	}
}

// unary follows the calls of the health protocol.
func unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c := connOf(ctx)
	defer c.begin()()
	c.answered()
	return handler(ctx, req)
}
