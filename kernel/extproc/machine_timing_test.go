package extproc

import (
	"strings"
	"testing"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// allowPath drives one request with the headers of a browser through one worker, and the response through another.
type allowPath struct {
	m                     *Machine
	name                  string
	request, response     []byte
	requestOK, responseOK *workerv1.Result
}

func newAllowPath(t testing.TB, name string, response bool) *allowPath {
	w := newWorld()
	line := "route orders request auth limit"
	if response {
		line += " response audit"
	}
	for _, line := range []string{"worker w1 auth limit", "worker w2 audit", line, "owned w1 1 0 x-user-id x-tenant", "replaced w1 1 1 x-internal"} {
		if err := w.setUp(words(line)); err != nil {
			t.Fatal(err)
		}
	}
	s := w.settings(t)
	s.Observer, s.Tracer = countingObserver{}, nil
	headers := strings.Fields(`:method=GET :path=/orders/42?expand=items :authority=api.example.com :scheme=https accept=application/json accept-encoding=gzip
		user-agent=Mozilla/5.0 x-api-key=0123456789abcdef0123456789abcdef x-forwarded-for=192.0.2.7 x-forwarded-proto=https
		x-request-id=7c9e6679-7425-40de-944b-e07fc1f90ae7 end_of_stream`)
	if name == "" {
		headers = append(headers, "route=orders", "source=192.0.2.7:4711")
	}
	p := &allowPath{
		m: New(s), name: name,
		request:   mustMessage(t, "request_headers", headers...),
		response:  mustMessage(t, "response_headers", words(":status=200 content-type=application/json content-length=512 server=up")...),
		requestOK: mustResult(t, "CONTINUE set:x-user-id=alice remove:x-api-key set:ratelimit-remaining=99 subject=alice context=0123456789abcdef"),
		responseOK: mustResult(t, "CONTINUE set:strict-transport-security=max-age=31536000 set:x-content-type-options=nosniff remove:server "+
			"phase=response_headers"),
	}
	p.requestOK.Phase = requestHeaders
	return p
}

func mustResult(t testing.TB, text string) *workerv1.Result {
	t.Helper()
	r, err := parseResult(words(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

type countingObserver struct{}

func (countingObserver) Decided(d *Decision) {
	if d.Status != StatusAllowed {
		panic(d.Status.String())
	}
}

func (p *allowPath) run(t testing.TB) {
	p.m.Open(p.name, 0)
	e := p.m.Message(p.request, 1)
	if e.Kind != KindCall {
		t.Fatal(e.Kind, e.Message)
	}
	e = p.m.Complete(e.Call, p.requestOK, nil, 2)
	if e.Kind == KindAnswer {
		e = p.m.Message(p.response, 3)
		e = p.m.Complete(e.Call, p.responseOK, nil, 4)
	}
	if e.Kind != KindFinish {
		t.Fatal(e.Kind, e.Message)
	}
	p.m.Close()
}

var allowPaths = []struct {
	name     string
	route    string
	response bool
}{
	{"request", "orders", false},
	{"request and response", "orders", true},
	{"request, route and address from attributes", "", false},
}

func TestAllowPathDoesNotAllocate(t *testing.T) {
	for _, tc := range allowPaths {
		t.Run(tc.name, func(t *testing.T) {
			p := newAllowPath(t, tc.route, tc.response)
			if allocs := testing.AllocsPerRun(1000, func() { p.run(t) }); allocs != 0 {
				t.Errorf("%v allocations per request", allocs)
			}
		})
	}
}

// TestDenyPathDoesNotAllocate: an attack must not cost more than what is allowed.
func TestDenyPathDoesNotAllocate(t *testing.T) {
	p := newAllowPath(t, "orders", false)
	p.m.settings.Observer = nil
	deny := mustResult(t, `IMMEDIATE http=401 policy=auth reason=missing_key header:www-authenticate=ApiKey header:content-type=application/json body={"code":"MISSING_KEY"}`)
	deny.Phase = requestHeaders
	if allocs := testing.AllocsPerRun(1000, func() {
		p.m.Open("orders", 0)
		if e := p.m.Complete(p.m.Message(p.request, 1).Call, deny, nil, 2); e.Kind != KindFinish {
			t.Fatal(e.Kind)
		}
		p.m.Close()
	}); allocs != 0 {
		t.Errorf("%v allocations per request", allocs)
	}
}

func BenchmarkAllow(b *testing.B) {
	for _, tc := range allowPaths {
		b.Run(tc.name, func(b *testing.B) {
			p := newAllowPath(b, tc.route, tc.response)
			b.ReportAllocs()
			for b.Loop() {
				p.run(b)
			}
		})
	}
}
