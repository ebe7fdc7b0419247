package h2

import "testing"

// answeredStreams opens streams that are answered at once and leaves them open. The server keeps some of them and resets
// the others; it returns their number after the second in which all this has happened.
func answeredStreams(t *testing.T, p *peer, srv *Server, streams uint32) (evicted uint32) {
	for i := range streams {
		p.open(2*i+1, "/test/Fail")
		p.data(2*i+1, false, message("x"))
		if i%500 == 499 {
			p.outcome(2*i + 1)
		}
	}
	p.ping()
	c := only(t, srv)
	c.Lock()
	evicted = streams - uint32(len(c.streams))
	if c.budget.owed != evicted || evicted < maxControl {
		t.Errorf("%d of %d streams are gone, %d frames are owed", evicted, streams, c.budget.owed)
	}
	c.budget.since -= 2 * budgetWindow
	c.Unlock()
	p.ping()
	return evicted
}

// TestLateResets: an Envoy whose thread is busy resets answered streams in a later second than that of their answers. That
// is no flood, as long as it is one frame for each of them.
func TestLateResets(t *testing.T) {
	const streams = 6000
	addr, srv := startServer(t, Config{}, echoHandler{})
	p := newPeer(t, addr)
	answeredStreams(t, p, srv, streams)
	var b []byte
	for i := range uint32(streams) {
		b = appendRSTStream(b, 2*i+1, Cancel)
	}
	p.write(b)
	p.open(2*streams+1, "/test/Echo")
	p.data(2*streams+1, true, nil)
	if o := p.outcome(2*streams + 1); o.fields["grpc-status"] != "0" {
		t.Errorf("a call after them: %v", o)
	}
	c := only(t, srv)
	c.Lock()
	if c.budget.owed != 0 || c.budget.control > maxControl {
		t.Errorf("%d frames are owed, %d were charged", c.budget.owed, c.budget.control)
	}
	c.Unlock()
}

// TestLateResetsAreCounted: a second frame for each stream that is gone is a flood.
func TestLateResetsAreCounted(t *testing.T) {
	const streams = 6000
	addr, srv := startServer(t, Config{}, echoHandler{})
	p := newPeer(t, addr)
	answeredStreams(t, p, srv, streams)
	var b []byte
	for range 5 {
		for i := range uint32(streams) {
			b = appendRSTStream(b, 2*i+1, Cancel)
		}
	}
	go func() { _, _ = p.nc.Write(b) }() // It fails when the server has had enough.
	if code, ok := p.goAway(); !ok || ErrCode(code) != EnhanceYourCalm {
		t.Errorf("GOAWAY: %v, code %v", ok, code)
	}
}

// TestAllStreamsAreGivenUp: a peer may reset all its streams at once before their answers, as an Envoy whose timeouts end
// together does.
func TestAllStreamsAreGivenUp(t *testing.T) {
	const streams = 4096
	addr, srv := startServer(t, Config{MaxConcurrentStreams: streams}, silent{})
	p := newPeer(t, addr)
	var b []byte
	for i := range uint32(streams) {
		p.open(2*i+1, "/test/Silent")
		b = appendRSTStream(b, 2*i+1, Cancel)
	}
	p.write(b)
	p.ping()
	c := only(t, srv)
	c.Lock()
	defer c.Unlock()
	if len(c.streams) != 0 {
		t.Errorf("%d streams are left", len(c.streams))
	}
}
