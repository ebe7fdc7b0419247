package transport

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/codec"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/listener"
	"github.com/policy-engine/policy-engine/kernel/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bound is how long a test waits for something that must happen.
const bound = 30 * time.Second

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(bound)
	for !cond() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// script is a machine that does what messages say, and checks how it is driven. Messages are words: "answer", "finish", "call" and so on.
type script struct {
	t         testing.TB
	worker    route.Evaluator
	busy      atomic.Bool
	open      bool
	aborted   bool
	over      bool
	calling   bool
	callsLeft int
	call      route.Call
	log       *journal
	panicAt   string
	answers   bool // the call's outcome is an answer, and the stream goes on
	more      int  // answers that follow one that was given; the last of them is the end if finishes says so
	finishes  bool
	lent, was []byte // the message that was lent last, and what it has to be
	digit     byte   // that the last message ended with
}

// journal counts events of all machines.
type journal struct {
	mu     sync.Mutex
	counts map[string]int
}

func (j *journal) add(event string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.counts == nil {
		j.counts = map[string]int{}
	}
	j.counts[event]++
}

func (j *journal) count(event string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.counts[event]
}

// enter checks the driver's duties that hold for all methods.
func (s *script) enter(event string, needOpen bool) func() {
	if !s.busy.CompareAndSwap(false, true) {
		s.t.Errorf("%s during another method", event)
	}
	if s.open != needOpen {
		s.t.Errorf("%s on a machine with open = %t", event, s.open)
	}
	s.log.add(event)
	if event != "message" && !bytes.Equal(s.lent, s.was) { // A driver may have taken it for the message.
		s.t.Errorf("%s: a message that was lent has changed", event)
	}
	return func() { s.busy.Store(false) }
}

func (s *script) Open(name string, _ extproc.Instant) {
	defer s.enter("open "+name, false)()
	s.open, s.digit, s.lent, s.was = true, 0, nil, nil
	if name == "panic" {
		panic("open")
	}
}

// Lend implements extproc.Driven.
func (s *script) Lend(msg []byte, now extproc.Instant) extproc.Effect {
	e := s.Message(msg, now)
	s.lent, s.was = msg, bytes.Clone(msg)
	s.log.add("lend")
	return e
}

func (s *script) Message(msg []byte, _ extproc.Instant) extproc.Effect {
	defer s.enter("message", true)()
	if s.aborted || s.over || s.calling || s.more > 0 {
		s.t.Errorf("a message while aborted %t, over %t, calling %t, %d answers to come", s.aborted, s.over, s.calling, s.more)
	}
	s.lent, s.was = nil, nil
	if n := len(msg); n > 0 && msg[n-1] >= '0' && msg[n-1] <= '9' {
		if want := '0' + (s.digit-'0'+1)%10; s.digit != 0 && msg[n-1] != want {
			s.t.Errorf("message %c comes in place of %c", msg[n-1], want)
		}
		s.digit = msg[n-1]
	}
	s.callsLeft = 1
	switch strings.TrimRight(string(msg), " 0123456789") {
	case "answer":
		return extproc.Effect{Kind: extproc.KindAnswer, Answer: []byte("answ"), Tail: []byte("ered")}
	case "three answers", "two answers and finish":
		s.more, s.finishes = 2, string(msg) == "two answers and finish"
		return extproc.Effect{Kind: extproc.KindAnswer, More: true, Answer: []byte("a"), Tail: []byte("nswered")}
	case "panic in next":
		s.more, s.panicAt = 1, "next"
		return extproc.Effect{Kind: extproc.KindAnswer, More: true, Answer: []byte("answered")}
	case "finish":
		s.over = true
		return extproc.Effect{Kind: extproc.KindFinish, Answer: []byte("fin"), Tail: []byte("ished")}
	case "wait":
		return extproc.Effect{}
	case "fail":
		s.over = true
		return extproc.Effect{Kind: extproc.KindFail, Code: codes.Aborted, Message: "failed"}
	case "fail with OK":
		s.over = true
		return extproc.Effect{Kind: extproc.KindFail}
	case "nonsense":
		return extproc.Effect{Kind: 99}
	case "panic":
		panic("message")
	case "long answer":
		return extproc.Effect{Kind: extproc.KindAnswer, Answer: make([]byte, maxMessage)}
	case "call and answer":
		s.answers = true
	case "three calls":
		s.callsLeft = 3
	case "panic in complete":
		s.panicAt = "complete"
	case "panic in drain":
		s.panicAt = "drain"
	}
	return s.evaluate()
}

func (s *script) evaluate() extproc.Effect {
	s.callsLeft--
	s.calling = true
	return extproc.Effect{Kind: extproc.KindCall, Call: &s.call, Worker: s.worker}
}

func (s *script) Complete(c *route.Call, _ *workerv1.Result, err error, _ extproc.Instant) extproc.Effect {
	defer s.enter("complete", true)()
	if c != &s.call || !s.calling {
		s.t.Errorf("a completion of no call")
	}
	s.calling = false
	if s.panicAt == "complete" {
		panic("complete")
	}
	switch {
	case s.aborted:
		return extproc.Effect{}
	case err != nil:
		s.over = true
		return extproc.Effect{Kind: extproc.KindFinish, Answer: []byte(err.Error())}
	case s.answers:
		s.answers = false
		return extproc.Effect{Kind: extproc.KindAnswer, Answer: []byte("answered")}
	case s.callsLeft > 0:
		return s.evaluate()
	}
	s.over = true
	return extproc.Effect{Kind: extproc.KindFinish, Answer: []byte("evaluated")}
}

func (s *script) Next(extproc.Instant) extproc.Effect {
	defer s.enter("next", true)()
	if s.panicAt == "next" {
		panic("next")
	}
	if s.more--; s.more < 0 {
		s.t.Error("a next answer is asked for, and there is none")
	}
	if s.more == 0 && s.finishes {
		s.over = true
		return extproc.Effect{Kind: extproc.KindFinish, Answer: []byte("finished")}
	}
	return extproc.Effect{Kind: extproc.KindAnswer, More: s.more > 0, Answer: []byte("answe"), Tail: []byte("red")}
}

func (s *script) HalfClose(extproc.Instant) extproc.Effect {
	defer s.enter("half-close", true)()
	return extproc.Effect{}
}

func (s *script) Drain(extproc.Instant) extproc.Effect {
	defer s.enter("drain", true)()
	if s.panicAt == "drain" {
		panic("drain")
	}
	return extproc.Effect{Kind: extproc.KindFinish, Answer: []byte("refused")}
}

func (s *script) Abort(extproc.Instant) {
	defer s.enter("abort", true)()
	s.aborted = true
}

func (s *script) Close() {
	defer s.enter("close", true)()
	if s.calling {
		s.t.Error("closed while a call is outstanding")
	}
	s.more, s.finishes = 0, false
	s.open, s.aborted, s.over, s.answers, s.panicAt = false, false, false, false, ""
}

// evaluator keeps calls until the test lets them go; with inline it answers at once.
type evaluator struct {
	inline bool
	panics bool // after it has taken the call
	calls  chan *route.Call
}

func (*evaluator) Name() string    { return "w" }
func (*evaluator) Available() bool { return true }
func (e *evaluator) Evaluate(c *route.Call) {
	if e.inline {
		c.Done.Complete(c, &workerv1.Result{}, nil)
		return
	}
	e.calls <- c
	if e.panics {
		panic("evaluate")
	}
}

const (
	routeKey    = "x-policy-route"
	serviceName = "envoy.service.ext_proc.v3.ExternalProcessor"
	// maxMessage is the longest message that both take, in bytes.
	maxMessage = 4 << 20
)

// name is the transport of the test: $POLICY_ENGINE_TRANSPORT, so that all tests run on each.
func name() config.Transport {
	if name := os.Getenv("POLICY_ENGINE_TRANSPORT"); name != "" {
		return config.Transport(name)
	}
	return config.TransportFast
}

// rig is a server with scripted machines and a client.
type rig struct {
	t         testing.TB
	server    Server
	listener  net.Listener
	client    *grpc.ClientConn
	log       journal
	evaluator evaluator
	panics    atomic.Int32
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, evaluator: evaluator{calls: make(chan *route.Call, 2000)}}
	r.start(config.Server{Address: "127.0.0.1", MaxConcurrentStreams: 1000})
	r.client = r.dial(grpc.WithTransportCredentials(insecure.NewCredentials()))
	return r
}

func (r *rig) start(cfg config.Server) {
	r.t.Helper()
	r.startWith(Options{Config: cfg})
}

// startWith starts a server with the options, and with scripted machines.
func (r *rig) startWith(o Options) {
	r.t.Helper()
	var err error
	o.Config.Transport = name()
	o.Logger, o.Panicked = zap.NewNop(), func() { r.panics.Add(1) }
	o.New = func() extproc.Driven { r.log.add("new"); return &script{t: r.t, worker: &r.evaluator, log: &r.log} }
	if r.server, err = New(o); err != nil {
		r.t.Fatal(err)
	}
	r.listener, err = listener.Open(o.Config)
	if err != nil {
		r.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.server.Serve(r.listener) }()
	r.t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		r.server.Drain(ctx)
		if err := <-done; err != nil {
			r.t.Error(err)
		}
		eventually(r.t, "all streams have ended", func() bool { return r.server.Streams() == 0 })
	})
}

// complete gives a call its outcome, as an evaluator does.
func (r *rig) complete(c *route.Call, result *workerv1.Result, err error) {
	c.Done.Complete(c, result, err)
	r.server.AfterBatch()
}

func (r *rig) dial(o ...grpc.DialOption) *grpc.ClientConn {
	r.t.Helper()
	target := "passthrough:///" + r.listener.Addr().String()
	if r.listener.Addr().Network() == "unix" {
		target = "unix:" + r.listener.Addr().String()
	}
	c, err := grpc.NewClient(target, append(o, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec.Codec{})))...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// flow is a client's stream.
type flow struct {
	grpc.ClientStream
	t      testing.TB
	cancel func()
	frame  codec.Frame
}

func (r *rig) stream(ctx context.Context) *flow {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, bound)
	r.t.Cleanup(cancel)
	s, err := r.client.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/"+serviceName+"/Process")
	if err != nil {
		r.t.Fatal(err)
	}
	return &flow{ClientStream: s, t: r.t, cancel: cancel}
}

func frameOf(msg string) *codec.Frame { return &codec.Frame{B: []byte(msg)} }

func (f *flow) send(msg string) {
	f.t.Helper()
	if err := f.SendMsg(frameOf(msg)); err != nil && err != io.EOF {
		f.t.Fatal(err)
	}
}

func (f *flow) expect(answer string) {
	f.t.Helper()
	var frame codec.Frame
	if err := f.RecvMsg(&frame); err != nil || string(frame.B) != answer {
		f.t.Fatalf("got %q, %v; want %q", frame.B, err, answer)
	}
}

// expectEnd expects the end of the stream with the code.
func (f *flow) expectEnd(want codes.Code) {
	f.t.Helper()
	var frame codec.Frame
	err := f.RecvMsg(&frame)
	got := status.Code(err)
	if err == io.EOF {
		got = codes.OK
	}
	if err == nil || got != want {
		f.t.Fatalf("got %q, %v; want the end with %v", frame.B, err, want)
	}
}
