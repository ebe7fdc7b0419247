package workers

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/h2"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// lean is an Execute stream on our own HTTP/2. Whoever flushes writes to the socket itself, and the goroutine that reads the connection completes all calls of a read, so
// a call costs no goroutine a wake-up but the worker's.
type lean struct {
	conn   *conn
	client *h2.Client
	ready  chan struct{} // closed when client is set: the first read may be faster
	id     uint32
	// afterBatch is called when all calls of a read are completed.
	afterBatch func()

	// The client connection's lock guards these.
	inbox []byte // encoded ResultBatches; one after the other they are one
	ended error

	// conn.mu guards head: a call without its body.
	head []byte

	// Only the reading goroutine uses these.
	reading []byte
	result  workerv1.Result
}

// connectLean connects to the replica and opens the stream.
func connectLean(ctx context.Context, path string, c *conn, afterBatch func()) (*lean, error) {
	nc, err := dialSocket(ctx, path)
	if err != nil {
		return nil, err
	}
	l := &lean{conn: c, afterBatch: afterBatch, ready: make(chan struct{})}
	l.client = h2.NewClient(nc, h2.Config{MaxMessageSize: maxResult, StreamWindow: streamWindow, ConnWindow: connWindow, MaxSendBuffer: maxLeanBuffer, KeptSendBuffer: 2 * maxBatch}, l.read)
	close(l.ready)
	hc := l.client.Conn()
	hc.Lock()
	hs := l.client.Open(workerv1.PolicyWorker_Execute_FullMethodName, l)
	if hs != nil {
		l.id = hs.ID()
	}
	hc.Unlock()
	hc.Flush()
	if hs == nil {
		l.client.Close()
		return nil, fmt.Errorf("open a stream to %q: the connection has ended", path)
	}
	return l, nil
}

// maxLeanBuffer is how many bytes of calls may wait for a worker that does not read. Calls in flight are bounded, so it is reached only by large ones.
const maxLeanBuffer = 64 << 20

// Message implements h2.Receiver.
func (l *lean) Message(_ *h2.Stream, msg []byte) { l.inbox = append(l.inbox, msg...) }

// HalfClose implements h2.Receiver; Status takes its place.
func (l *lean) HalfClose(*h2.Stream) {}

// Reset implements h2.Receiver.
func (l *lean) Reset(*h2.Stream) {
	if l.ended == nil {
		l.ended = fmt.Errorf("the connection was lost")
	}
	l.client.Abort() // Too much waits for the worker, perhaps; then nothing may ever be read that has read notice.
}

// Status implements h2.StatusReceiver.
func (l *lean) Status(_ *h2.Stream, code uint32, message string) {
	l.ended = fmt.Errorf("the stream ended with gRPC status %d: %s", code, message)
}

// read completes the calls whose results the frames of one read brought.
func (l *lean) read() {
	<-l.ready
	hc := l.client.Conn()
	hc.Lock()
	l.reading, l.inbox = l.inbox, l.reading[:0]
	ended := l.ended
	hc.Unlock()
	if len(l.reading) > 0 {
		l.conn.hear()
		if err := l.conn.complete(&l.result, l.reading); err != nil {
			l.conn.close(fmt.Errorf("%w: %w", route.ErrIllegalResult, err))
			l.client.Abort()
		}
		if cap(l.reading) > maxKept {
			l.reading, l.result = nil, workerv1.Result{} // A reset result keeps a capacity that aliases the bytes.
		}
		l.conn.worker.pump()
		l.afterBatch()
	}
	if ended != nil {
		l.client.Abort()
	}
}

// leastBody is from which size on, in bytes, the body of a call is copied to where the socket is written from at once, and not to pending before.
const leastBody = 8 << 10

// encode writes a call with a large body, as a batch of its own, to where the next flush sends it from. conn.mu is held, so that nobody can complete the call meanwhile: its
// bytes are the next request's as soon as it is.
func (l *lean) encode(m *workerv1.Call) error {
	c, body := l.conn, m.Body
	m.Body = nil
	size := m.SizeVT()
	call := size + 1 + protowire.SizeBytes(len(body)) // Call.body
	if call > maxCall {
		m.Body = body
		return errTooLarge
	}
	if !c.fits(call) || l.backlog() > maxWaiting {
		m.Body = body
		return route.ErrOverloaded
	}
	l.head = protowire.AppendVarint(append(l.head[:0], 1<<3|2), uint64(call)) // CallBatch.calls
	start := len(l.head)
	l.head = slices.Grow(l.head, size+1+binary.MaxVarintLen32)[:start+size]
	_, err := m.MarshalToSizedBufferVT(l.head[start:])
	m.Body = body
	if err != nil {
		return err
	}
	l.head = protowire.AppendVarint(append(l.head, 11<<3|2), uint64(len(body)))
	l.write(l.head, body)
	c.waiting += call
	if cap(l.head) > maxKept {
		l.head = nil
	}
	return nil
}

// backlog is how many bytes wait for the worker to read them.
func (l *lean) backlog() int {
	hc := l.client.Conn()
	hc.Lock()
	defer hc.Unlock()
	return hc.Backlog()
}

// write writes a batch to where the next flush sends it from: head and then tail.
func (l *lean) write(head, tail []byte) {
	hc := l.client.Conn()
	hc.Lock()
	defer hc.Unlock()
	if hs := hc.Stream(l.id); hs != nil {
		hs.SendParts(head, tail)
	}
}

// flush sends what is pending.
func (l *lean) flush() {
	c := l.conn
	c.mu.Lock()
	batch, calls := c.pending, c.gathered
	if calls == 0 || c.closed {
		c.mu.Unlock()
		return
	}
	c.gathered, c.waiting = 0, 0
	if len(batch) > 0 {
		c.pending, c.spare = c.spare[:0], nil
	}
	c.mu.Unlock()
	c.batches.sent(calls)
	if len(batch) == 0 {
		l.client.Conn().Flush()
		return
	}
	l.write(batch, nil)
	l.client.Conn().Flush()
	c.mu.Lock()
	if cap(batch) <= maxKept {
		c.spare = batch[:0]
	}
	c.mu.Unlock()
}

// run waits for the end of the stream, and says why it ended. All calls are completed when it returns.
func (l *lean) run(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-l.client.Done():
	}
	l.client.Close()
	l.conn.close(route.ErrUnavailable)
	l.afterBatch()
	if err := ctx.Err(); err != nil {
		return err
	}
	hc := l.client.Conn()
	hc.Lock()
	defer hc.Unlock()
	return l.ended
}

// serveLean opens the streams and has the group wait for their ends.
func (s *session) serveLean(ctx context.Context, reg *Registry, connections int, goes func(func() error)) error {
	for range max(1, connections) {
		dialCtx, cancel := context.WithTimeout(ctx, discoverTimeout)
		c := s.newConn(reg, nil)
		c.afterBatch = reg.afterBatch
		l, err := connectLean(dialCtx, s.replica.path, c, reg.afterBatch)
		cancel()
		if err != nil {
			return err
		}
		c.lean = l
		s.conns = append(s.conns, c)
		goes(func() error { return fmt.Errorf("read results from %q: %w", s.replica.path, l.run(ctx)) })
	}
	return nil
}

// flush sends what is pending. A stream of grpc-go has a writer that was woken already.
func (c *conn) flush() {
	if c.lean != nil {
		c.lean.flush()
	}
}
