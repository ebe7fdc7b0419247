package workers

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/codec"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// pipe is a stream in memory.
type pipe struct {
	ctx  context.Context
	sent chan []byte
	back chan []byte
}

func newPipe(ctx context.Context) *pipe {
	return &pipe{ctx: ctx, sent: make(chan []byte), back: make(chan []byte)}
}

func (p *pipe) SendMsg(m any) error {
	b := append([]byte(nil), m.(*codec.Frame).B...)
	select {
	case p.sent <- b:
		return nil
	case <-p.ctx.Done():
		return io.EOF
	}
}

func (p *pipe) RecvMsg(m any) error {
	select {
	case b := <-p.back:
		m.(*codec.Frame).B = append(m.(*codec.Frame).B[:0], b...)
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// calls decodes a batch.
func calls(t testing.TB, b []byte) []*workerv1.Call {
	t.Helper()
	var batch workerv1.CallBatch
	if err := batch.UnmarshalVT(b); err != nil {
		t.Fatal(err)
	}
	return batch.Calls
}

func results(ids ...uint64) []byte {
	var batch workerv1.ResultBatch
	for _, id := range ids {
		batch.Results = append(batch.Results, &workerv1.Result{Id: id, Outcome: workerv1.Result_OUTCOME_CONTINUE})
	}
	b, _ := batch.MarshalVT()
	return b
}

// bubble runs a test with a connection and a fake clock.
func bubble(t *testing.T, timeout time.Duration, test func(t *testing.T, c *conn, p *pipe, unmatched *atomic.Int32)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := newPipe(ctx)
		var unmatched atomic.Int32
		c := newConn(p, timeout, func() { unmatched.Add(1) })
		var running sync.WaitGroup
		running.Go(func() { _ = c.run(cancel) })
		test(t, c, p, &unmatched)
		cancel()
		running.Wait()
		if n := c.inFlight.Load(); n != 0 || len(c.free) != maxInFlight {
			t.Errorf("%d calls in flight at the end, %d slots free", n, len(c.free))
		}
	})
}

// put has a connection take a call.
func put(c *conn, call *route.Call) error {
	now := time.Since(c.epoch)
	call.Progress = route.Progress{Deadline: now + c.timeout}
	return c.submit(call, now, nil)
}

func submit(t *testing.T, c *conn) *probe {
	t.Helper()
	p := newProbe(t, 1)
	if err := put(c, &p.Call); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNaturalBatching(t *testing.T) {
	bubble(t, time.Second, func(t *testing.T, c *conn, p *pipe, _ *atomic.Int32) {
		first := submit(t, c)
		synctest.Wait() // The writer has taken the first and is stuck in sending it.
		var rest []*probe
		for range 10 {
			rest = append(rest, submit(t, c))
		}
		if got := calls(t, <-p.sent); len(got) != 1 || got[0].Id != first.Message.Id {
			t.Errorf("first batch %v", got)
		}
		batch := calls(t, <-p.sent)
		if len(batch) != 10 {
			t.Fatalf("second batch has %d calls, want 10", len(batch))
		}
		var ids []uint64
		for i, call := range batch {
			if call.Id != rest[i].Message.Id {
				t.Errorf("call %d has id %d, want %d", i, call.Id, rest[i].Message.Id)
			}
			ids = append(ids, call.Id)
		}
		p.back <- results(append(ids, first.Message.Id)...)
		for _, pr := range append(rest, first) {
			if r, err := pr.wait(); err != nil || r.Id != pr.Message.Id {
				t.Errorf("got %v, %v", r, err)
			}
		}
	})
}

func TestTimeout(t *testing.T) {
	bubble(t, 500*time.Millisecond, func(t *testing.T, c *conn, p *pipe, unmatched *atomic.Int32) {
		start := time.Now()
		a := submit(t, c)
		<-p.sent
		time.Sleep(300 * time.Millisecond) // The bubble's clock.
		b := submit(t, c)
		<-p.sent
		d := submit(t, c)
		<-p.sent
		p.back <- results(d.Message.Id)
		if _, err := a.wait(); !errors.Is(err, route.ErrTimeout) || time.Since(start) != 500*time.Millisecond {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		if _, err := d.wait(); err != nil {
			t.Error(err)
		}
		if _, err := b.wait(); !errors.Is(err, route.ErrTimeout) || time.Since(start) != 800*time.Millisecond {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		p.back <- results(a.Message.Id, b.Message.Id, d.Message.Id)
		synctest.Wait()
		if unmatched.Load() != 3 {
			t.Errorf("%d results without a call, want 3", unmatched.Load())
		}
		time.Sleep(time.Hour)
		start = time.Now()
		e := submit(t, c)
		<-p.sent
		if _, err := e.wait(); !errors.Is(err, route.ErrTimeout) || time.Since(start) != 500*time.Millisecond {
			t.Errorf("after a pause: %v after %v", err, time.Since(start))
		}
	})
}

func TestLimits(t *testing.T) {
	bubble(t, time.Second, func(t *testing.T, c *conn, p *pipe, _ *atomic.Int32) {
		var all []*probe
		for range maxInFlight {
			all = append(all, submit(t, c))
		}
		if err := put(c, &newProbe(t, 1).Call); !errors.Is(err, route.ErrOverloaded) {
			t.Fatalf("call beyond the limit: %v", err)
		}
		sent := calls(t, <-p.sent)
		p.back <- results(sent[0].Id)
		_, _ = all[0].wait()
		all = append(all[1:], submit(t, c))
		for len(sent) < maxInFlight+1 {
			sent = append(sent, calls(t, <-p.sent)...)
		}
		for _, pr := range all {
			if _, err := pr.wait(); !errors.Is(err, route.ErrTimeout) {
				t.Fatal(err)
			}
		}
	})
	bubble(t, time.Second, func(t *testing.T, c *conn, p *pipe, _ *atomic.Int32) {
		long := func(n int) *probe {
			pr := newProbe(t, 1)
			pr.Message.Headers = make([]byte, n)
			return pr
		}
		stuck := submit(t, c)
		synctest.Wait()
		big := long(3 << 20)
		if err := put(c, &big.Call); err != nil {
			t.Fatalf("a long call alone: %v", err)
		}
		behind, full := 0, false
		for ; !full && behind < 100; behind++ {
			full = errors.Is(put(c, &long(1<<20).Call), route.ErrOverloaded)
		}
		if behind--; (behind+4)<<20 < maxWaiting || behind<<20 > maxWaiting {
			t.Errorf("%d calls of 1 MiB each wait behind one of 3 MiB", behind)
		}
		for n := 0; n < behind+2; {
			n += len(calls(t, <-p.sent))
		}
		if err := put(c, &long(maxCall).Call); !errors.Is(err, errTooLarge) {
			t.Errorf("a call longer than any server takes: %v", err)
		}
		p.back <- results(stuck.Message.Id, big.Message.Id)
		_, _ = stuck.wait()
		_, _ = big.wait()
	})
}

func TestIllegalResults(t *testing.T) {
	tests := []struct {
		name  string
		batch []byte
	}{
		{"truncated tag", []byte{0x80}},
		{"truncated length", []byte{0x0a, 0x05, 0x01}},
		{"field number 0", []byte{0x02, 0x00}},
		{"truncated unknown field", []byte{0x12, 0x05}},
		{"end group", []byte{0x0c}},
		{"a result that is no message", []byte{0x0a, 0x02, 0xff, 0xff}},
		{"a result with a wrong wire type", []byte{0x0a, 0x02, 0x0a, 0x00}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, time.Second, func(t *testing.T, c *conn, p *pipe, _ *atomic.Int32) {
				pr := submit(t, c)
				<-p.sent
				p.back <- tt.batch
				if _, err := pr.wait(); !errors.Is(err, route.ErrIllegalResult) {
					t.Errorf("got %v", err)
				}
				if err := put(c, &newProbe(t, 1).Call); !errors.Is(err, errConnClosed) {
					t.Errorf("a call after the end: %v", err)
				}
			})
		})
	}
	t.Run("an unknown field is skipped", func(t *testing.T) {
		bubble(t, time.Second, func(t *testing.T, c *conn, p *pipe, _ *atomic.Int32) {
			pr := submit(t, c)
			<-p.sent
			p.back <- append([]byte{0x12, 0x01, 0x00, 0x18, 0x01}, results(pr.Message.Id)...)
			if _, err := pr.wait(); err != nil {
				t.Error(err)
			}
		})
	})
}

// TestConnModel runs random events against a model: which calls are in flight, since when.
func TestConnModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const timeout = 100
		var unmatched int
		c := newConn(nil, timeout*time.Hour, func() { unmatched++ }) // Its own timer is too late for the test, which moves the epoch instead.
		defer c.close(route.ErrUnavailable)
		type entry struct {
			p  *probe
			at int
		}
		var flying []entry
		now, closed := 0, false
		ended := map[*probe]error{}
		var all []*probe
		end := func(i int, err error) {
			ended[flying[i].p] = err
			flying = append(flying[:i:i], flying[i+1:]...)
		}
		deliver := func(id uint64) {
			want := unmatched + 1
			for i := range flying {
				if flying[i].p.Message.Id == id {
					end(i, nil)
					want--
					break
				}
			}
			if err := c.complete(new(workerv1.Result), results(id)); err != nil || unmatched != want {
				rt.Fatalf("result %d: %v, %d unmatched, want %d", id, err, unmatched, want)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"submit": func(rt *rapid.T) {
				p := newProbe(t, 1)
				err := put(c, &p.Call)
				switch {
				case closed != (err == errConnClosed), !closed && err != nil:
					rt.Fatalf("submit: %v, closed %t", err, closed)
				case err == nil:
					flying, all = append(flying, entry{p, now}), append(all, p)
				}
			},
			"result": func(rt *rapid.T) {
				if len(all) > 0 {
					deliver(rapid.SampledFrom(all).Draw(rt, "call").Message.Id) // in flight or not any more
				}
			},
			"invented result": func(rt *rapid.T) { deliver(rapid.Uint64Range(0, maxInFlight).Draw(rt, "id")) },
			"time": func(rt *rapid.T) {
				d := rapid.IntRange(1, timeout).Draw(rt, "hours")
				now += d
				c.epoch = c.epoch.Add(-time.Duration(d) * time.Hour)
				for len(flying) > 0 && flying[0].at+timeout <= now {
					end(0, route.ErrTimeout)
				}
				c.expire()
			},
			"close": func(rt *rapid.T) {
				if rapid.IntRange(0, 20).Draw(rt, "really") > 0 {
					return
				}
				closed = true
				for len(flying) > 0 {
					end(0, route.ErrUnavailable)
				}
				c.close(route.ErrUnavailable)
			},
			"": func(rt *rapid.T) {
				if int(c.inFlight.Load()) != len(flying) || len(c.free) != maxInFlight-len(flying) {
					rt.Fatalf("%d in flight, %d free; want %d in flight", c.inFlight.Load(), len(c.free), len(flying))
				}
				for _, p := range all {
					err, over := ended[p]
					if (p.count.Load() == 1) != over || over && !errors.Is(p.err, err) {
						rt.Fatalf("call %d: completed %d times with %v; want completed %t with %v", p.Message.Id, p.count.Load(), p.err, over, err)
					}
				}
			},
		})
	})
}

// TestRaces lets results, repeated results, timeouts and the end of the connection race for the same calls; probes check that each is completed once.
func TestRaces(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := newPipe(ctx)
	c := newConn(p, 200*time.Microsecond, func() {})
	var running sync.WaitGroup
	running.Go(func() { _ = c.run(cancel) })
	running.Go(func() { // The worker answers everything twice.
		for {
			select {
			case b := <-p.sent:
				var ids []uint64
				for _, call := range calls(t, b) {
					ids = append(ids, call.Id)
				}
				for range 2 {
					select {
					case p.back <- results(ids...):
					case <-ctx.Done():
						return
					}
				}
			case <-ctx.Done():
				return
			}
		}
	})
	outcomes := map[error]int{}
	var mu sync.Mutex
	var callers sync.WaitGroup
	var answered atomic.Int32
	for range 8 {
		callers.Go(func() {
			for {
				pr := newProbe(t, 1)
				if err := put(c, &pr.Call); err != nil {
					if !errors.Is(err, errConnClosed) {
						t.Error(err)
					}
					return
				}
				_, err := pr.wait()
				mu.Lock()
				outcomes[err]++
				mu.Unlock()
				if err == nil && answered.Add(1) == 3000 {
					c.close(route.ErrUnavailable)
				}
			}
		})
	}
	callers.Wait()
	cancel()
	running.Wait()
	for err := range outcomes {
		if err != nil && err != route.ErrTimeout && err != route.ErrUnavailable {
			t.Errorf("outcome %v", err)
		}
	}
	if c.inFlight.Load() != 0 {
		t.Errorf("%d in flight at the end", c.inFlight.Load())
	}
}
