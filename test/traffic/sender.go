package traffic

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Sender sends requests over HTTP/1.1 at a constant rate, whatever becomes of those before: it never waits for an answer, and never sends a request twice.
type Sender struct {
	Target string
	Rate   int // per second
	Ledger *Ledger
	// Patience is how long a request is waited for.
	Patience time.Duration

	turns atomic.Pointer[[]*Kind]

	mu   sync.Mutex
	idle []*conn
	// short counts the requests that were not sent because too many were under way.
	short atomic.Int64
	now   atomic.Int64 // under way
	// stall is the longest time between two turns of Run since it was asked for last.
	stall atomic.Int64
}

// maxUnderWay bounds what the sender itself takes: more than that wait only if the engine has failed.
const maxUnderWay = 30_000

// Send says what kinds of requests are sent from now on.
func (s *Sender) Send(kinds ...*Kind) {
	var turns []*Kind
	for _, k := range kinds {
		for range k.Weight {
			turns = append(turns, k)
		}
	}
	// The kinds come mixed, and in the same order each time.
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(turns), func(i, j int) { turns[i], turns[j] = turns[j], turns[i] })
	s.turns.Store(&turns)
}

// mostAtOnce bounds what is made up for at once after the machine was busy with something else.
const mostAtOnce = 20

// Run sends until the context ends, and returns when all requests have ended.
func (s *Sender) Run(ctx context.Context) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var group sync.WaitGroup
	start, sent := time.Now(), 0
	for last := start; ; last = time.Now() {
		select {
		case <-ctx.Done():
			group.Wait()
			s.closeIdle()
			return
		case <-tick.C:
		}
		if d := int64(time.Since(last)); d > s.stall.Load() {
			s.stall.Store(d)
		}
		due := int(time.Since(start).Seconds() * float64(s.Rate))
		for n := min(due-sent, mostAtOnce); n > 0; n-- {
			turns := *s.turns.Load()
			k := turns[sent%len(turns)]
			sent++
			if s.now.Load() >= maxUnderWay {
				s.short.Add(1)
				continue
			}
			s.now.Add(1)
			group.Go(func() { s.One(k); s.now.Add(-1) })
		}
	}
}

// Short is how many requests were not sent.
func (s *Sender) Short() int { return int(s.short.Load()) }

// Stall is how long the sender itself did not get to run at most, since it was asked last: when the machine stands still, so does the engine, and nobody can be served in time.
func (s *Sender) Stall() time.Duration { return time.Duration(s.stall.Swap(0)) }

// One sends a request beside those of Run, once, and returns its status when it has ended; 0 is no answer.
func (s *Sender) One(k *Kind) (status int) {
	id := s.Ledger.Begin(k)
	status, err := s.exchange(k.Write(make([]byte, 0, 1024), strconv.FormatUint(id, 10)))
	s.Ledger.End(id, status, errors.Is(err, os.ErrDeadlineExceeded))
	return status
}

func (s *Sender) exchange(request []byte) (status int, err error) {
	deadline := time.Now().Add(s.Patience)
	c := s.take()
	if c == nil {
		if c, err = dial(s.Target, deadline); err != nil {
			return 0, err
		}
	}
	if err := c.SetDeadline(deadline); err != nil {
		_ = c.Close()
		return 0, err
	}
	_, werr := c.Write(request)
	// A request that is refused early may not be taken whole: there is an answer all the same.
	resp, err := http.ReadResponse(c.in, nil)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if err != nil {
		_ = c.Close()
		return 0, err
	}
	if werr != nil || resp.Close {
		_ = c.Close()
	} else {
		s.put(c)
	}
	return resp.StatusCode, nil
}

// conn is a connection without a request under way while it is idle.
type conn struct {
	net.Conn
	raw syscall.RawConn
	in  *bufio.Reader
}

func dial(target string, deadline time.Time) (*conn, error) {
	d := net.Dialer{Deadline: deadline}
	nc, err := d.Dial("tcp", target)
	if err != nil {
		return nil, err
	}
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	return &conn{Conn: nc, raw: raw, in: bufio.NewReader(nc)}, nil
}

// open reports whether the other side has neither closed an idle connection nor sent anything.
func (c *conn) open() bool {
	open := false
	err := c.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		open = errors.Is(err, syscall.EAGAIN)
		return true
	})
	return err == nil && open
}

// take takes the connection that was used last, nil if there is none.
func (s *Sender) take() *conn {
	for {
		s.mu.Lock()
		n := len(s.idle)
		if n == 0 {
			s.mu.Unlock()
			return nil
		}
		c := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		_ = c.SetDeadline(time.Time{})
		if c.open() {
			return c
		}
		_ = c.Close()
	}
}

func (s *Sender) put(c *conn) {
	s.mu.Lock()
	s.idle = append(s.idle, c)
	s.mu.Unlock()
}

func (s *Sender) closeIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.idle {
		_ = c.Close()
	}
	s.idle = nil
}
