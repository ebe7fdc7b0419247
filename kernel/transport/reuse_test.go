package transport

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/codec"
)

// peer is a client that sends nothing but what a test wants; it has opened stream 1.
type peer struct {
	*http2.Framer
	t *testing.T
}

func newPeer(r *rig, settings ...http2.Setting) *peer {
	t := r.t.(*testing.T)
	t.Helper()
	nc, err := net.Dial("tcp", r.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", "/" + serviceName + "/Process"},
		{":authority", "test"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	p := &peer{http2.NewFramer(nc, nc), t}
	_, err = io.WriteString(nc, http2.ClientPreface)
	for _, err := range []error{
		nc.SetDeadline(time.Now().Add(bound)), err, p.WriteSettings(settings...),
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// send sends the messages in one frame.
func (p *peer) send(messages ...string) {
	p.t.Helper()
	var data []byte
	for _, message := range messages {
		data = append(binary.BigEndian.AppendUint32(append(data, 0), uint32(len(message))), message...)
	}
	if err := p.WriteData(1, false, data); err != nil {
		p.t.Fatal(err)
	}
}

// until reads frames until one matches.
func (p *peer) until(matches func(http2.Frame) bool) {
	p.t.Helper()
	for {
		f, err := p.ReadFrame()
		if err != nil {
			p.t.Fatal(err)
		}
		if matches(f) {
			return
		}
	}
}

// TestMachineIsReusedOnce: a peer that reads no answers has its stream reset. When the machine ends the stream in between, it must not be put back twice, or two
// streams share it; script complains of what it hears after its end.
func TestMachineIsReusedOnce(t *testing.T) {
	if name() != config.TransportFast {
		t.Skip("handlers of grpc-go wait for the window")
	}
	r := newRig(t)
	p := newPeer(r, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	p.send(append(slices.Repeat([]string{"long answer"}, 9), "finish")...)
	p.until(func(f http2.Frame) bool { _, ok := f.(*http2.RSTStreamFrame); return ok })
	r.expectIdle(1)
	if n := r.server.Streams(); n != 0 {
		t.Errorf("%d streams are open", n)
	}
}

// TestAnswerBeforeTheNextCall: an answer does not wait for the call that a message behind it leads to.
func TestAnswerBeforeTheNextCall(t *testing.T) {
	r := newRig(t)
	p := newPeer(r)
	p.send("call and answer")
	first := <-r.evaluator.calls
	p.send("call")
	if err := p.WritePing(false, [8]byte{1}); err != nil {
		t.Fatal(err)
	}
	p.until(func(f http2.Frame) bool {
		ping, ok := f.(*http2.PingFrame)
		return ok && ping.IsAck() && ping.Data[0] == 1
	}) // It is silent now.
	r.complete(first, &workerv1.Result{}, nil)
	p.until(func(f http2.Frame) bool {
		d, ok := f.(*http2.DataFrame)
		return ok && bytes.HasSuffix(d.Data(), []byte("answered"))
	})
	r.complete(<-r.evaluator.calls, &workerv1.Result{}, nil)
	p.until(func(f http2.Frame) bool { h, ok := f.(*http2.HeadersFrame); return ok && h.StreamEnded() })
	r.expectIdle(1)
}

// TestQueueIsBounded: empty messages behind a call cost memory too, and a peer that sends without end is held up by its window.
func TestQueueIsBounded(t *testing.T) {
	if name() != config.TransportFast {
		t.Skip("handlers of grpc-go read no message before they need it")
	}
	r := newRig(t)
	f := r.stream(t.Context())
	f.send("call")
	c := <-r.evaluator.calls
	const most = 100_000 // What the window and the client's buffer take, and a reserve.
	var sent atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for sent.Load() <= most && f.SendMsg(&codec.Frame{}) == nil {
			sent.Add(1)
		}
	}()
	eventually(t, "the window is used up", func() bool { return sent.Load() > 10_000 })
	select {
	case <-ended:
		t.Fatalf("%d messages were taken behind a call", sent.Load())
	case <-time.After(100 * time.Millisecond):
	}
	r.complete(c, &workerv1.Result{}, nil)
	f.expect("evaluated")
	f.expectEnd(codes.OK)
	<-ended
	r.expectIdle(1)
}

// TestEvaluatorPanics: the connection ends, and a call that was taken is not started again.
func TestEvaluatorPanics(t *testing.T) {
	if name() != config.TransportFast {
		t.Skip("evaluators are called by the handlers of grpc-go")
	}
	r := newRig(t)
	r.evaluator.panics = true
	f := r.stream(t.Context())
	f.send("call")
	c := <-r.evaluator.calls
	f.expectEnd(codes.Unavailable)
	eventually(t, "the stream has ended", func() bool { return r.server.Streams() == 0 })
	r.complete(c, &workerv1.Result{}, nil)
	r.expectIdle(1)
	if n := len(r.evaluator.calls); n != 0 {
		t.Errorf("the call was started %d times again", n)
	}
}
