package workers

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// TestFlushAfterDraining: a call that was submitted before the replica began to drain is sent.
func TestFlushAfterDraining(t *testing.T) {
	f, path := newFake("w", 1), socketPath(t)
	f.start(t, path)
	reg, w := setup(t, func(r *config.WorkerRef) { r.HealthCheck.Interval = time.Hour }, path)
	push(t, reg, 1)
	ready(t, w)
	p := newProbe(t, 1)
	w.Submit(&p.Call)
	reg.mu.Lock()
	s := w.replicas[0].session
	reg.mu.Unlock()
	reg.setServing(s, false)
	w.Flush()
	if _, err := p.wait(); err != nil {
		t.Error(err)
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
		if err := c.submit(&p.Call); err != nil {
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
