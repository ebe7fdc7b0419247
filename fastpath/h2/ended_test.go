package h2

import (
	"bytes"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/fastpath/memory"
)

// ends collects why connections were ended.
type ends struct {
	mu      sync.Mutex
	reasons []string
}

func (e *ends) add(reason string, peer net.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if peer == nil {
		reason += " of nobody"
	}
	e.reasons = append(e.reasons, reason)
}

func (e *ends) list() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.reasons)
}

// TestReasonsOfEnds: whatever the server ends a connection for is reported, once, and what the peer ends is not.
func TestReasonsOfEnds(t *testing.T) {
	repeat := func(n int, frames ...[]byte) []byte { return bytes.Repeat(slices.Concat(frames...), n) }
	for _, tt := range []struct {
		reason string
		cfg    Config
		act    func(p *peer)
	}{
		{ReasonSettings, Config{}, func(p *peer) { p.write(repeat(3000, rawFrame(frameSettings, 0, 0, nil))) }},
		{ReasonPings, Config{}, func(p *peer) { p.write(repeat(3000, rawFrame(framePing, 0, 0, make([]byte, 8)))) }},
		{ReasonControl, Config{}, func(p *peer) { p.write(repeat(3000, rawFrame(framePriority, 0, 1, []byte{0, 0, 0, 0, 1}))) }},
		{ReasonWindows, Config{}, func(p *peer) { p.write(repeat(60_000, rawFrame(frameWindowUpdate, 0, 0, []byte{0, 0, 0, 1}))) }},
		{ReasonResets, Config{MaxConcurrentStreams: 1000}, func(p *peer) {
			var b []byte
			for i := range uint32(3000) {
				b = append(b, rawFrame(frameHeaders, flagEndHeaders, 2*i+1, p.call("/test/Silent"))...)
				b = append(b, rawFrame(frameRSTStream, 0, 2*i+1, []byte{0, 0, 0, 8})...)
			}
			p.write(b)
		}},
		{ReasonHeaders, Config{}, func(p *peer) {
			p.write(rawFrame(frameHeaders, 0, 1, []byte{0x82}))
			p.write(repeat(40, rawFrame(frameContinuation, 0, 1, []byte{0x82})))
		}},
		{ReasonProtocol, Config{}, func(p *peer) { p.write(rawFrame(frameData, 0, 0, []byte("x"))) }},
		{ReasonSilent, Config{IdlePing: 20 * time.Millisecond}, func(*peer) {}},
		{"", Config{}, func(p *peer) { _ = p.nc.Close() }},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			var e ends
			tt.cfg.Ended = e.add
			addr, srv := startServer(t, tt.cfg, silent{})
			p := newPeer(t, addr)
			go func() { // The server may end it while we write.
				defer func() { _ = recover() }()
				tt.act(p)
			}()
			eventually(t, "the connection is gone", func() bool { return len(srv.connections()) == 0 })
			want := []string{tt.reason}
			if tt.reason == "" {
				want = nil
			}
			eventually(t, "it is reported", func() bool { return slices.Equal(e.list(), want) })
		})
	}
	t.Run(ReasonHandshake, func(t *testing.T) {
		var e ends
		addr, _ := startServer(t, Config{HandshakeTimeout: 20 * time.Millisecond, Ended: e.add}, silent{})
		rawPeer(t, addr).write([]byte(preface[:5]))
		eventually(t, "it is reported", func() bool { return slices.Equal(e.list(), []string{ReasonHandshake}) })
	})
	t.Run(ReasonConnections, func(t *testing.T) {
		var e ends
		addr, _ := startServer(t, Config{MaxConnections: 1, Ended: e.add}, silent{})
		newPeer(t, addr)
		rawPeer(t, addr)
		eventually(t, "it is reported", func() bool { return slices.Equal(e.list(), []string{ReasonConnections}) })
	})
}

// TestMemoryOfAllConnections: streams and messages beyond the budget are refused, and what connections held comes back when they end.
func TestMemoryOfAllConnections(t *testing.T) {
	budget := memory.New(4 << 20)
	var refused sync.Map
	cfg := Config{Memory: budget, Refused: func() { refused.Store(1, 1) }, MaxMessageSize: 1 << 20}
	addr, srv := startServer(t, cfg, silent{})
	part := message(string(make([]byte, 900_000)))[:16_000]
	var peers []*peer
	for range 4 {
		p := newPeer(t, addr)
		peers = append(peers, p)
		for i := range uint32(300) {
			p.open(2*i+1, "/test/Silent")
			p.data(2*i+1, false, part)
		}
		p.ping()
	}
	if used := budget.Used(); used > budget.Max()+4*readBufferSize || used < budget.Max()/4 {
		t.Errorf("%d bytes of %d are held", used, budget.Max())
	}
	if _, ok := refused.Load(1); !ok {
		t.Error("nothing was refused")
	}
	for _, c := range srv.connections() {
		c.Lock()
		checkInvariants(t, c)
		c.Unlock()
	}
	for _, p := range peers {
		_ = p.nc.Close()
	}
	eventually(t, "all is given back", func() bool { return budget.Used() == 0 })
	honest(t, dial(t, addr))
}
