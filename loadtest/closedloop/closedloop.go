// Package closedloop sends HTTP/1.1 requests on a fixed number of connections, the next one when the last is answered, and checks each answer.
//
// It is one thread on epoll that writes requests made beforehand: a microsecond or two of its own for each, beside the system calls.
package closedloop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"syscall"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/latency"
)

// Request is a request as it is sent.
type Request struct {
	Bytes []byte
	// Status and Contains are what the head of the answer must have. Contains may be empty.
	Status   int
	Contains []byte
}

// Load is what to send. Its requests are sent in turn, and only read.
type Load struct {
	Target      netip.AddrPort
	Connections int
	Requests    []Request
	// First is the request to begin with.
	First int
	// Once ends the load after the last request; otherwise the first one follows.
	Once bool
}

// Result is what came back.
type Result struct {
	Latencies *latency.Histogram // of requests that were answered as they should be
	Elapsed   time.Duration      // from the first request to the end
	Failed    uint64             // requests that were answered with another status, or not
	Failure   string             // the first of them
	Wrong     uint64             // requests that were answered with the right status, but without what the answer has to contain
	Mistake   string             // the first of them
	Next      int                // the request that would have been next
}

// PerSecond is how many requests were answered as they should be.
func (r *Result) PerSecond() float64 {
	return float64(r.Latencies.Count()) / max(r.Elapsed.Seconds(), 1e-9)
}

// maxFailures ends a load: there is nothing to measure.
const maxFailures = 10_000

// answerTimeout is for a request on which nothing comes back any more.
const answerTimeout = 10 * time.Second

// generator is a load under way.
type generator struct {
	load     *Load
	poll     int
	conns    []conn
	next     int
	open     int // connections on which an answer is awaited
	result   Result
	draining bool
}

// Run sends until the time is over, the context ends, or, with Once, nothing is left. What is under way at the end is awaited, and counts. The error says
// that the load could not be sent; failed requests are in the result.
func Run(ctx context.Context, load *Load, duration time.Duration) (*Result, error) {
	if len(load.Requests) == 0 || load.Connections < 1 || !load.Target.Addr().Is4() {
		return nil, fmt.Errorf("send a load of %d requests on %d connections to %v: legal is at least one of each, to an IPv4 address",
			len(load.Requests), load.Connections, load.Target)
	}
	poll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	g := &generator{load: load, poll: poll, conns: make([]conn, load.Connections), next: load.First}
	g.result.Latencies = new(latency.Histogram)
	defer g.close()
	for i := range g.conns {
		g.conns[i].fd = -1
	}
	for i := range g.conns {
		if err := g.connect(i); err != nil {
			return nil, err
		}
	}
	// One thread: the scheduler would move the loop about with each system call that blocks.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return g.run(ctx, duration)
}

func (g *generator) run(ctx context.Context, duration time.Duration) (*Result, error) {
	start := time.Now()
	end := start.Add(duration)
	for i := range g.conns {
		g.send(&g.conns[i], time.Now())
	}
	events := make([]syscall.EpollEvent, len(g.conns))
	for last := start; g.open > 0; {
		n, err := syscall.EpollWait(g.poll, events, 50)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return nil, fmt.Errorf("wait for answers: %w", err)
		}
		now := time.Now()
		g.draining = g.draining || now.After(end) || ctx.Err() != nil || g.result.Failed+g.result.Wrong >= maxFailures
		for _, e := range events[:max(n, 0)] {
			if err := g.readable(int(e.Pad)); err != nil {
				return nil, err
			}
			last = now
		}
		if now.Sub(last) > answerTimeout {
			for range g.open {
				g.fail(fmt.Errorf("no answer within %v", answerTimeout), nil)
			}
			break
		}
	}
	g.result.Elapsed, g.result.Next = time.Since(start), g.next
	return &g.result, ctx.Err()
}

// send sends the next request on a connection, if there is to be one.
func (g *generator) send(c *conn, now time.Time) {
	if g.draining || g.load.Once && g.next >= len(g.load.Requests) {
		return
	}
	c.request, c.filled, c.sent, c.awaiting = g.next%len(g.load.Requests), 0, now, true
	g.next++
	g.open++
	// There is one request at a time, and it is smaller than any send buffer. When the connection is gone, reading says so next.
	_, _ = syscall.Write(c.fd, g.load.Requests[c.request].Bytes)
}

// readable takes what is there of an answer; when it is whole, it is checked, and the next request sent.
func (g *generator) readable(i int) error {
	c := &g.conns[i]
	n, err := syscall.Read(c.fd, c.buf[c.filled:])
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
		return nil
	case err != nil:
		return g.lost(i, fmt.Errorf("read an answer: %w", err))
	case n == 0:
		return g.lost(i, errors.New("the connection was closed before the answer"))
	case !c.awaiting:
		return g.lost(i, errors.New("bytes that answer nothing"))
	}
	now := time.Now()
	c.filled += n
	a, whole, err := parse(c.buf[:c.filled])
	switch {
	case err != nil:
		return g.lost(i, err)
	case !whole && c.filled == len(c.buf):
		return g.lost(i, fmt.Errorf("an answer has more than %d bytes", len(c.buf)))
	case !whole:
		return nil
	}
	g.open--
	c.awaiting = false
	switch r := &g.load.Requests[c.request]; {
	case a.status != r.Status:
		g.fail(fmt.Errorf("status %d, want %d", a.status, r.Status), c.buf[:c.filled])
	case !bytes.Contains(a.head, r.Contains):
		g.mistake(r, c.buf[:c.filled])
	default:
		g.result.Latencies.Add(now.Sub(c.sent))
	}
	if a.close {
		if err := g.connect(i); err != nil {
			return err
		}
	}
	g.send(c, now)
	return nil
}

func (g *generator) fail(err error, answer []byte) {
	if g.result.Failed++; g.result.Failed == 1 {
		g.result.Failure = fmt.Sprintf("%v %.1000q", err, answer)
	}
}

func (g *generator) mistake(r *Request, answer []byte) {
	if g.result.Wrong++; g.result.Wrong == 1 {
		g.result.Mistake = fmt.Sprintf("%.1000q does not have %q", answer, r.Contains)
	}
}

// lost gives a connection up: a request that was under way has failed. A connection that was closed while nothing was under way is no failure (RFC 9112 section 9.5).
func (g *generator) lost(i int, err error) error {
	c := &g.conns[i]
	if c.awaiting {
		g.open--
		c.awaiting = false
		g.fail(err, nil)
	}
	if err := g.connect(i); err != nil {
		return err
	}
	g.send(c, time.Now())
	return nil
}
