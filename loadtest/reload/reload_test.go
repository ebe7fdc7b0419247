package reload

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	vegeta "github.com/tsenart/vegeta/v12/lib"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	"github.com/policy-engine/policy-engine/bench/engine"
	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/loadtest/rig"
	"github.com/policy-engine/policy-engine/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// TestPhase sorts requests by what the engine did meanwhile.
func TestPhase(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(1_000_000 + int64(ms)) }
	over := &account{begun: at(1000), ended: at(2000)}
	running := &account{begun: at(5000), ended: at(2000)}
	for name, tt := range map[string]struct {
		a         *account
		due, done int
		want      phase
	}{
		"no reload yet":                   {&account{}, 0, 10, quiet},
		"before":                          {over, 900, 999, quiet},
		"the reload begins meanwhile":     {over, 900, 1001, under},
		"in the reload":                   {over, 1100, 1200, under},
		"the reload ends meanwhile":       {over, 1990, 2500, under},
		"right after":                     {over, 2001, 2003, behind},
		"long after":                      {over, 3000, 3001, quiet},
		"one is under way":                {running, 5100, 5200, under},
		"it ended before the one that is": {running, 4000, 4001, quiet},
	} {
		if got := tt.a.phase(at(tt.due), at(tt.done)); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// TestMessage: the kernel gets what Envoy sent, with other values.
func TestMessage(t *testing.T) {
	recorded, err := engine.LoadRecording("../../bench/recorded/chain.h2.gz")
	if err != nil {
		t.Fatal(err)
	}
	shape := func(message []byte) string {
		var m extprocv3.ProcessingRequest
		if err := proto.Unmarshal(message, &m); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, h := range m.GetRequestHeaders().GetHeaders().GetHeaders() {
			names = append(names, h.GetKey())
		}
		m.GetRequestHeaders().Headers = nil
		return strings.Join(append(names, strings.Fields(m.String())...), " ")
	}
	b, err := message(1, "key", "token")
	if err != nil {
		t.Fatal(err)
	}
	first := recorded.Streams[0]
	if got, want := shape(b[prefixLen:]), shape(first.Message(0)); got != want {
		t.Errorf("the message is\n%s\nand Envoy sent\n%s", got, want)
	}
	fields := func(block []byte) (out []string) {
		all, err := hpack.NewDecoder(4096, nil).DecodeFull(block)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			out = append(out, f.Name+": "+f.Value)
		}
		return out
	}
	meta := newMetadata()
	for range 2 { // The second one refers to nothing of the first.
		block, err := meta.block("chain")
		if err != nil {
			t.Fatal(err)
		}
		if got, want := fields(block), fields(first.Head[9:]); !slices.Equal(got, want) {
			t.Errorf("the headers are\n%q\nand Envoy sent\n%q", got, want)
		}
	}
}

// TestRoutes: the requests reach all routes, and bad credentials come to all of them in turn.
func TestRoutes(t *testing.T) {
	seen := map[int]bool{}
	for n := range 10_000 {
		seen[route(n, 10_000)] = true
	}
	if len(seen) != 10_000 {
		t.Errorf("10,000 requests reach %d of 10,000 routes", len(seen))
	}
}

// TestJudge: nothing but what a request has to get is taken for it.
func TestJudge(t *testing.T) {
	encode := func(m *extprocv3.ProcessingResponse) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte{0, 0, 0, 0, byte(len(b))}, b...)
	}
	allow := func(identity string) []byte {
		m := &extprocv3.CommonResponse{}
		if identity != "" {
			m.HeaderMutation = &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: rig.IdentityHeader, RawValue: []byte(identity)}}}}
		}
		return encode(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: m}}})
	}
	refuse := func(code typev3.StatusCode) []byte {
		return encode(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{Status: &typev3.HttpStatus{Code: code}}}})
	}
	own := credentials.Identity(3)
	for name, tt := range map[string]struct {
		answer []byte
		bad    bool
		want   string
	}{
		"allowed":                      {allow(own), false, ""},
		"refused":                      {refuse(401), true, ""},
		"allowed as another":           {allow(credentials.Identity(4)), false, "without the client's identity"},
		"allowed as nobody":            {allow(""), false, "without the client's identity"},
		"allowed with a bad token":     {allow(own), true, "let through"},
		"refused with a good token":    {refuse(401), false, "answered with 401"},
		"unavailable":                  {refuse(503), false, "answered with 503"},
		"a bad token, and unavailable": {refuse(503), true, "answered with 503"},
		"another phase":                {encode(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{}}), false, "another phase"},
		"half a message":               {allow(own)[:9], false, "not one message"},
		"nothing":                      {nil, false, "not one message"},
		"rubbish":                      {[]byte{0, 0, 0, 0, 1, 0xff}, false, "no ProcessingResponse"},
	} {
		if got := judge(tt.answer, 3, tt.bad); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// TestJudgeResult is TestJudge for what comes through Envoy.
func TestJudgeResult(t *testing.T) {
	own := http.Header{"X-Identity": {credentials.Identity(3)}}
	for name, tt := range map[string]struct {
		r    vegeta.Result
		bad  bool
		want string
	}{
		"allowed":                   {vegeta.Result{Code: 200, Headers: own}, false, ""},
		"refused":                   {vegeta.Result{Code: 401, Error: "401 Unauthorized"}, true, ""},
		"allowed as nobody":         {vegeta.Result{Code: 200}, false, "without the client's identity"},
		"allowed with a bad token":  {vegeta.Result{Code: 200, Headers: own}, true, "let through"},
		"refused with a good token": {vegeta.Result{Code: 401}, false, "answered with 401"},
		"unavailable":               {vegeta.Result{Code: 503}, true, "answered with 503"},
		"no answer":                 {vegeta.Result{Error: "EOF"}, true, "EOF"},
		"broken off":                {vegeta.Result{Code: 200, Headers: own, Error: "EOF"}, false, "EOF"},
	} {
		tt.r.URL = "http://localhost/x/" + credentials.Identity(3)
		if got := judgeResult(&tt.r, tt.bad); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// TestVerdict: a run that shows nothing is no success.
func TestVerdict(t *testing.T) {
	good := func() *Report {
		return &Report{Requests: 10, Refused: 1, Reloads: []float64{1, 2}, Windows: map[string]Window{"reload": {Requests: 3}}}
	}
	for want, spoil := range map[string]func(*Report){
		"":                      func(*Report) {},
		"1 of 10":               func(r *Report) { r.Failed = 1 },
		"1 of 2 reloads":        func(r *Report) { r.Reloads = r.Reloads[:1] },
		"0 requests met":        func(r *Report) { r.Windows["reload"] = Window{} },
		"0 were to be refused;": func(r *Report) { r.Refused = 0 },
	} {
		r := good()
		spoil(r)
		if err := r.verdict(2); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// TestOptions tells what is wrong.
func TestOptions(t *testing.T) {
	for want, spoil := range map[string]func(*Options){
		"":                       func(*Options) {},
		"target":                 func(o *Options) { o.Target = "gateway" },
		"a rate of 0":            func(o *Options) { o.Rate = 0 },
		"a duration of 1ms":      func(o *Options) { o.Duration = time.Millisecond },
		"0 reloads":              func(o *Options) { o.Reloads = 0 },
		"0 clients":              func(o *Options) { o.Clients = 0 },
		"the chain [apiKeyAuth]": func(o *Options) { o.Engine.Chain = []string{"apiKeyAuth"} },
		"2000000 routes":         func(o *Options) { o.Engine.Routes = 2_000_000 },
	} {
		o := Options{Target: TargetKernel, Rate: 1, Duration: time.Second, Reloads: 1, Clients: 1, Engine: rig.Spec{Chain: rig.DefaultChain}}
		spoil(&o)
		if err := o.check(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// TestRun is make reload-load, shortly: no request fails while every route changes, whoever asks.
func TestRun(t *testing.T) {
	keep := t.TempDir()
	for _, target := range []string{TargetKernel, TargetEnvoy} {
		t.Run(target, func(t *testing.T) {
			var out bytes.Buffer
			o := Options{
				Target: target, Rate: 100, Duration: 4 * time.Second, Reloads: 3, Clients: 20, Engine: rig.Spec{Chain: rig.DefaultChain, Routes: 200},
				Programs:    rig.Programs{Bin: filepath.Dir(harness.Program(t, "policy-kernel")), Envoy: harness.Envoy(t)},
				Credentials: keep, Reports: t.TempDir(), Out: &out,
			}
			for _, name := range []string{"policy-worker-1", "policyctl"} {
				harness.Program(t, name)
			}
			if err := Run(t.Context(), o); err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			text, err := os.ReadFile(filepath.Join(o.Reports, "reload.json"))
			if err != nil {
				t.Fatal(err)
			}
			var got Report
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			if got.Requests != 400 || got.Refused != 20 || got.Failed != 0 || len(got.Reloads) != 3 || got.CPU["kernel"] <= 0 || got.Ratio <= 0 {
				t.Errorf("%+v", got)
			}
			for _, want := range []string{"   1 s", "400 requests, 0 failed", "P99 under reloads"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in\n%s", want, out.String())
				}
			}
		})
	}
}
