package burst

import (
	"net"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"
)

// target serves a handler over HTTP/2, as Envoy would.
func target(t *testing.T, h http.HandlerFunc) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute}
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}

// TestOutcomes: what is lost is counted by what happened to it, and so is what was not checked.
func TestOutcomes(t *testing.T) {
	up := &Upstream{Checked: func(r *http.Request) bool { return r.Header.Get("x-checked") != "no" }}
	b := &Burst{
		Requests: 210, Streams: 100, Patience: 2 * time.Second, Upstream: up,
		Path:  func(int) string { return "/orders" },
		Check: func(name, _ string) bool { return name == "x-flow" },
	}
	b.Target = target(t, func(w http.ResponseWriter, r *http.Request) {
		switch n, _ := strconv.Atoi(r.Header.Get(Header)); {
		case n < 5:
			http.Error(w, "no room", http.StatusServiceUnavailable)
		case n < 8:
			panic(http.ErrAbortHandler) // A reset.
		case n < 10:
			r.Header.Set("x-checked", "no")
			fallthrough
		case n < 206:
			w.Header().Set("x-flow", "1")
			up.ServeHTTP(w, r)
		case n < 208:
			up.ServeHTTP(w, r)
		default:
			w.Header().Set("x-flow", "1")
			up.ServeHTTP(nowhere{}, r)
			up.ServeHTTP(nowhere{}, r)
			if n == 208 {
				http.Error(w, `{"error":"late","code":"WORKER_TIMEOUT"}`, http.StatusServiceUnavailable)
				return
			}
			w.Header().Set(ReasonHeader, "UT some_details")
			w.WriteHeader(http.StatusGatewayTimeout)
		}
	})
	r, err := b.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Loss{
		{5, "request", Outcome{Status: "503", By: ByUpstream, Reason: "no room"}},
		{3, "request", Outcome{By: ByReset, Reason: "INTERNAL_ERROR"}},
		{2, "response", Outcome{Status: "200", By: ByUpstream, Reason: uncheckedResponse}},
		{1, "response", Outcome{Status: "503", By: ByKernel, Reason: "WORKER_TIMEOUT"}},
		{1, "response", Outcome{Status: "504", By: ByEnvoy, Flags: "UT", Reason: "some_details"}},
	}
	if !slices.Equal(r.Lost, want) {
		t.Errorf("lost %v, want %v", r.Lost, want)
	}
	if r.InFlight != 202 || r.Answered != 198 || r.LostCount() != 12 || r.Unchecked != 4 || r.Repeated != 2 || r.Err() == nil {
		t.Errorf("%+v", r)
	}
}

// nowhere is where an answer goes that nobody gets.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (nowhere) WriteHeader(int)             {}

// TestAllAtOnce: nothing is answered before everything is in flight, and then all of it.
func TestAllAtOnce(t *testing.T) {
	for _, rate := range []int{0, 2000} {
		up := &Upstream{}
		b := &Burst{Requests: 450, Rate: rate, Upstream: up, Path: func(int) string { return "/" }}
		b.Target = target(t, up.ServeHTTP)
		for range 2 {
			r, err := b.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Err(); err != nil || r.InFlight != 450 || r.Request.P99 <= 0 || r.Response.P99 <= 0 {
				t.Errorf("rate %d: %+v, %v", rate, r, err)
			}
		}
	}
}

// TestLostConnection: requests on a connection that ends are lost, and the others are not.
func TestLostConnection(t *testing.T) {
	up := &Upstream{}
	b := &Burst{Requests: 20, Streams: 10, Patience: 5 * time.Second, Upstream: up, Path: func(int) string { return "/" }}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: up, Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute}
	s.Protocols.SetUnencryptedHTTP2(true)
	first := make(chan net.Conn, 1)
	s.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew {
			select {
			case first <- c:
			default:
			}
		}
	}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	b.Target = l.Addr().String()
	b.Fields = nil
	b.Path = func(i int) string {
		if i == 19 {
			_ = (<-first).Close()
		}
		return "/"
	}
	r, err := b.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Answered != 10 || r.LostCount() != 10 || len(r.Lost) != 1 {
		t.Errorf("%+v, want the 10 requests of one connection lost", r)
	}
}
