package workers

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// TestEvaluateAll: a batch goes to one connection; what that does not take, of another generation or past its room, is decided call by call, each once.
func TestEvaluateAll(t *testing.T) {
	f, path := newFake("w", 1), socketPath(t)
	f.start(t, path)
	reg, w := setup(t, func(r *config.WorkerRef) { r.Connections = 2 }, path)
	push(t, reg, 1)
	push(t, reg, 2)
	ready(t, w)
	w.EvaluateAll(nil)

	run := func(generations ...uint64) []*probe {
		probes := make([]*probe, len(generations))
		calls := make([]*route.Call, len(generations))
		for i, g := range generations {
			probes[i] = newProbe(t, g)
			calls[i] = &probes[i].Call
		}
		w.EvaluateAll(calls)
		return probes
	}
	for i, p := range run(1, 2, 1, 7, 2) {
		_, err := p.wait()
		if i == 3 && !errors.Is(err, route.ErrUnavailable) {
			t.Errorf("call of a generation that nobody holds: %v", err)
		} else if i != 3 && err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}

	many := make([]uint64, 2*maxInFlight+10)
	for i := range many {
		many[i] = 1
	}
	refused := 0
	for i, p := range run(many...) {
		switch _, err := p.wait(); {
		case errors.Is(err, route.ErrOverloaded):
			refused++
		case err != nil:
			t.Fatalf("call %d: %v", i, err)
		}
		if n := p.count.Load(); n != 1 {
			t.Fatalf("call %d completed %d times", i, n)
		}
	}
	if refused > len(many)-maxInFlight {
		t.Errorf("%d of %d calls are refused", refused, len(many))
	}
}

// TestPick: calls keep to the first connection, so that batches are large, until it is busy; then to the one with the
// fewest. Long calls keep to the last one, and others away from it meanwhile.
func TestPick(t *testing.T) {
	for _, tt := range []struct {
		inFlight []int32
		lastLong int32
		long     bool
		want     int
	}{
		{[]int32{0, 0}, 0, false, 0},
		{[]int32{enough - 1, 0}, 0, false, 0},
		{[]int32{enough, 0}, 0, false, 1},
		{[]int32{enough, enough, enough - 1}, 0, false, 2},
		{[]int32{enough + 2, enough, enough + 1}, 0, false, 1},
		{[]int32{maxInFlight}, 0, false, 0},
		{[]int32{0, 0}, 0, true, 1},
		{[]int32{0, enough + 1}, enough, true, 1},
		{[]int32{0, 1}, 1, false, 0},
		{[]int32{enough + 2, 1}, 1, false, 0},
		{[]int32{enough + 2, enough + 1, 1}, 1, false, 1},
		{[]int32{3}, 2, false, 0},
		{[]int32{3}, 2, true, 0},
	} {
		target := target{}
		for _, n := range tt.inFlight {
			c := newConn(nil, time.Hour, func() {})
			c.inFlight.Store(n)
			target.conns = append(target.conns, c)
		}
		target.conns[len(target.conns)-1].long.Store(tt.lastLong)
		if got := target.pick(tt.long); got != target.conns[tt.want] {
			t.Errorf("%+v: another connection", tt)
		}
	}
}

// TestWorkerThatNeverReads: when too much waits for a worker its connection ends at once, so that calls go elsewhere, rather than run into their timeouts.
func TestWorkerThatNeverReads(t *testing.T) {
	path := socketPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.(*net.UnixListener).SetDeadline(time.Now().Add(bound)); err != nil {
		t.Fatal(err)
	}
	c := newConn(nil, time.Hour, func() {})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	connected, err := connectLean(ctx, path, c, func() {})
	if err != nil {
		t.Fatal(err)
	}
	c.lean = connected
	defer connected.client.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if err := http2.NewFramer(peer, peer).WriteSettings(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- connected.run(ctx) }()
	headers := make([]byte, 4<<20-1024)
	var probes []*probe
	for range maxLeanBuffer/len(headers) + 2 {
		p := newProbe(t, 1)
		p.Message.Headers = headers
		if err := put(c, &p.Call); err != nil {
			break // It has ended.
		}
		probes = append(probes, p)
		c.flush()
	}
	select {
	case <-ended:
	case <-time.After(bound):
		t.Fatal("the connection goes on")
	}
	for _, p := range probes {
		if _, err := p.wait(); err != route.ErrUnavailable {
			t.Fatalf("a call ended with %v", err)
		}
	}
}
