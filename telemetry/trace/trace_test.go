package trace

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/policy-engine/policy-engine/test/collector"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	traceID  = "0af7651916cd43dd8448eb211c80319c"
	parentID = "b7ad6b7169203331"
	sampled  = "00-" + traceID + "-" + parentID + "-01"
	silent   = "00-" + traceID + "-" + parentID + "-00"
)

func TestParseParent(t *testing.T) {
	for text, want := range map[string]string{
		sampled: "sampled", silent: "silent",
		"00-" + traceID + "-" + parentID + "-ff":   "sampled",
		"cc-" + traceID + "-" + parentID + "-01":   "sampled", // a later version
		"cc-" + traceID + "-" + parentID + "-01-x": "sampled",
		"cc-" + traceID + "-" + parentID + "-01x":  "",
		"00-" + traceID + "-" + parentID + "-01-x": "",
		"ff-" + traceID + "-" + parentID + "-01":   "",
		"":                                         "",
		"00":                                       "",
		"00-" + strings.ToUpper(traceID) + "-" + parentID + "-01": "",
		"00-" + strings.Repeat("0", 32) + "-" + parentID + "-01":  "",
		"00-" + traceID + "-" + strings.Repeat("0", 16) + "-01":   "",
		"00-" + traceID[1:] + "g-" + parentID + "-01":             "",
		"00_" + traceID + "-" + parentID + "-01":                  "",
		"00-" + traceID + "-" + parentID + "-0":                   "",
		sampled + "," + sampled:                                   "",
		" " + sampled[1:]:                                         "",
		"00-" + traceID + "-" + parentID + "-\xff1":               "",
	} {
		p, ok := parseParent([]byte(text))
		got := ""
		switch {
		case ok && p.sampled:
			got = "sampled"
		case ok:
			got = "silent"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if ok && (p.trace.String() != traceID || p.span.String() != parentID) {
			t.Errorf("%q: %v %v", text, p.trace, p.span)
		}
	}
}

func FuzzParseParent(f *testing.F) {
	f.Add([]byte(sampled))
	f.Add([]byte("cc-" + traceID + "-" + parentID + "-01-x"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, ok := parseParent(text)
		if ok && !strings.Contains(string(text), p.trace.String()+"-"+p.span.String()+"-") {
			t.Errorf("%q was read as %v %v", text, p.trace, p.span)
		}
	})
}

func FuzzFromWire(f *testing.F) {
	f.Add([]byte(strings.Repeat("x", 24) + "a=b"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		c, err := FromWire(wire)
		if err == nil && !c.IsValid() {
			t.Errorf("%q makes %v", wire, c)
		}
	})
}

func TestWire(t *testing.T) {
	p, _ := parseParent([]byte(sampled))
	c := p.context([]byte("vendor=1,other=2"))
	got, err := FromWire(AppendWire(nil, c))
	if err != nil || !got.Equal(c) || got.TraceState().String() != "vendor=1,other=2" || !got.IsSampled() || !got.IsRemote() {
		t.Errorf("%v, %v; want %v", got, err, c)
	}
	if c := p.context([]byte("=;broken")); c.TraceState().Len() != 0 || !c.IsValid() {
		t.Errorf("a broken tracestate: %v", c)
	}
	if c := p.context([]byte(strings.Repeat("a=b,", 200))); c.TraceState().Len() != 0 {
		t.Error("a tracestate that is too long was taken")
	}
}

// sampling makes a sampler with a clock that stands still until it is moved.
func sampling(rate float64, limit int) (s *sampler, tick func()) {
	now := time.Unix(1000, 0)
	s = &sampler{now: func() time.Time { return now }}
	s.set(rate, limit)
	return s, func() { now = now.Add(time.Second) }
}

func TestSampling(t *testing.T) {
	count := func(s *sampler, text string) (n int) {
		for range 1000 {
			if _, _, ok := s.sample([]byte(text)); ok {
				n++
			}
		}
		return n
	}
	low := "00-" + strings.Repeat("a", 16) + strings.Repeat("0", 15) + "1-" + parentID + "-" // of any rate above 0
	tests := []struct {
		rate        float64
		limit       int
		traceparent string
		least, most int
	}{
		{0, 100, "", 0, 0},
		{1, 100, "", 1000, 1000},
		{0.5, 100, "", 350, 650},
		{0, 100, silent, 0, 0},
		{1, 100, silent, 0, 0}, // The parent has decided.
		{0, 1000, sampled, 1000, 1000},
		{0, 100, sampled, 100, 100}, // The rest goes by the rate.
		{1, 100, sampled, 1000, 1000},
		{0, 0, sampled, 0, 0}, // Nobody's word counts.
		{1, 0, silent, 1000, 1000},
		{0.001, 0, low + "01", 1000, 1000},
		{0.001, 0, low + "00", 1000, 1000},
		{0.001, 0, sampled, 0, 0}, // 8448… is far above the threshold.
		{0.5, 100, "garbage", 350, 650},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.rate, tt.limit, tt.traceparent), func(t *testing.T) {
			s, _ := sampling(tt.rate, tt.limit)
			if n := count(s, tt.traceparent); n < tt.least || n > tt.most {
				t.Errorf("%d of 1000, want %d to %d", n, tt.least, tt.most)
			}
		})
	}
	s, tick := sampling(0, 10)
	if n := count(s, sampled); n != 10 {
		t.Errorf("%d in a second, want 10", n)
	}
	tick()
	if n := count(s, sampled); n != 10 {
		t.Errorf("%d in the next second, want 10", n)
	}
}

// TestSameRateSameTraces: what a lower rate traces, a higher one does, too.
func TestSameRateSameTraces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Float64Range(0, 1).Draw(t, "a"), rapid.Float64Range(0, 1).Draw(t, "b")
		low, _ := sampling(min(a, b), 0)
		high, _ := sampling(max(a, b), 0)
		id := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")
		text := fmt.Sprintf("00-%x-%s-01", id, parentID)
		_, joined, l := low.sample([]byte(text))
		_, _, h := high.sample([]byte(text))
		if joined && l && !h {
			t.Fatalf("%s: sampled at %v, not at %v", text, min(a, b), max(a, b))
		}
	})
}

func options(endpoint string) Options {
	return Options{Service: "test", Version: "1", Endpoint: endpoint, Insecure: true, Timeout: 200 * time.Millisecond, QueueSize: 100, Rate: 0, ParentLimit: 1000}
}

func open(t *testing.T, o Options) *Tracer {
	t.Helper()
	tracer, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return tracer
}

func receive(t *testing.T) *collector.Collector {
	t.Helper()
	c, err := collector.Start("127.0.0.1:0", true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestNotSampledDoesNotAllocate(t *testing.T) {
	tracer := open(t, options("127.0.0.1:1"))
	defer tracer.Close(0)
	for _, traceparent := range []string{"", silent, "garbage"} {
		header := []byte(traceparent)
		if n := testing.AllocsPerRun(1000, func() {
			if _, ok := tracer.Sample(header, nil); ok {
				t.Fatal("sampled")
			}
		}); n != 0 {
			t.Errorf("%q: %v allocations", traceparent, n)
		}
	}
}

func BenchmarkSampleNot(b *testing.B) {
	tracer, err := New(options("127.0.0.1:1"))
	if err != nil {
		b.Fatal(err)
	}
	defer tracer.Close(0)
	header := []byte(silent)
	b.ReportAllocs()
	for b.Loop() {
		tracer.Sample(header, nil)
	}
}

func TestSpansArrive(t *testing.T) {
	c := receive(t)
	o := options(c.Address())
	o.Headers = map[string]string{"x-token": "t"}
	tracer := open(t, o)
	parent, ok := tracer.Sample([]byte(sampled), []byte("vendor=1"))
	if !ok {
		t.Fatal("not sampled")
	}
	span := tracer.Begin(parent, "", "it", trace.SpanKindServer, attribute.String("bad", "a\xffb"))
	span.End()
	if err := tracer.Close(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	got := c.Spans()
	if len(got) != 1 {
		t.Fatalf("%d spans", len(got))
	}
	if s := got[0]; s.Trace != traceID || s.Parent != parentID || s.State != "vendor=1" || s.Attributes["bad"] != "a\uFFFDb" || s.Service != "test" || c.Header("x-token") != "t" {
		t.Errorf("%+v, token %q", s, c.Header("x-token"))
	}
	if tracer.Spans() != 1 || tracer.Lost() != 0 {
		t.Errorf("%d spans, %d lost", tracer.Spans(), tracer.Lost())
	}
}

// TestReceivers that don't receive: nobody waits for them, what they don't take is counted, and the end is bounded.
func TestReceivers(t *testing.T) {
	silentListener, err := net.Listen("tcp", "127.0.0.1:0") // It accepts, and never says a word.
	if err != nil {
		t.Fatal(err)
	}
	defer silentListener.Close()
	hanging := receive(t)
	hang := make(chan struct{})
	defer close(hang)
	hanging.Hang = hang
	for name, endpoint := range map[string]string{"down": "127.0.0.1:1", "silent": silentListener.Addr().String(), "hangs": hanging.Address(), "no such host": "nowhere.invalid:4317"} {
		t.Run(name, func(t *testing.T) {
			o := options(endpoint)
			if name == "down" {
				o.Timeout = 2 * time.Second // That it is down has to be seen within it.
			}
			failed := make(chan error, 1000)
			o.Failed = func(_ int, err error) { failed <- err }
			tracer := open(t, o)
			const n = 5000
			began := time.Now()
			for range n {
				tracer.Begin(trace.SpanContext{}, "", "it", trace.SpanKindInternal).End()
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("%d spans took %v", n, took)
			}
			if lost := tracer.Lost(); lost < n-uint64(o.QueueSize)-maxBatch {
				t.Errorf("%d lost of %d with a queue of %d", lost, n, o.QueueSize)
			}
			if name == "down" {
				if err := <-failed; !strings.Contains(err.Error(), "connection refused") {
					t.Errorf("it says %v", err)
				}
			}
			began = time.Now()
			_ = tracer.Close(300 * time.Millisecond)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("the end took %v", took)
			}
			if tracer.Lost() != n || tracer.Spans() != n {
				t.Errorf("%d lost of %d, want all of %d", tracer.Lost(), tracer.Spans(), n)
			}
			tracer.Begin(trace.SpanContext{}, "", "late", trace.SpanKindInternal).End() // Nobody minds.
		})
	}
}

func TestBadAuthorities(t *testing.T) {
	o := options("127.0.0.1:1")
	o.Insecure, o.CAFile = false, "trace_test.go"
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "has no certificate") {
		t.Errorf("got %v", err)
	}
	o.CAFile = "there is no such file"
	if _, err := New(o); err == nil {
		t.Error("no error")
	}
}
