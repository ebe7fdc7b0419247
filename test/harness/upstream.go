package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// MustNotArrive marks a request that policies have to refuse: the upstream fails the test when it gets one.
const MustNotArrive = "X-E2e-Must-Not-Arrive"

// Answer is how a test asks the upstream for a status other than 200. AnswerHeader asks for one header line "name: value" more.
const (
	Answer       = "X-E2e-Answer"
	AnswerHeader = "X-E2e-Answer-Header"
)

// Received is a request as the upstream got it. It is also the body of the upstream's answer.
type Received struct {
	Method string      `json:"method"`
	Path   string      `json:"path"`
	Host   string      `json:"host"`
	Header http.Header `json:"header"`
	// Body is what arrived of the body, Trailer what came after it.
	Body    string      `json:"body,omitempty"`
	Trailer http.Header `json:"trailer,omitempty"`
}

// Upstream records what arrives.
type Upstream struct {
	Address string

	t        testing.TB
	handler  http.Handler
	mu       sync.Mutex
	received []Received
}

// StartUpstream serves HTTP/1.1 and HTTP/2 until the end of the test. The handler answers in place of the upstream's own answer; it may be nil.
func StartUpstream(t testing.TB, handler http.Handler) *Upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &Upstream{Address: l.Addr().String(), t: t, handler: handler}
	server := &http.Server{Handler: http.HandlerFunc(u.serve), ReadHeaderTimeout: Timeout, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	ended := make(chan struct{})
	go func() {
		_ = server.Serve(l)
		close(ended)
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		<-ended
	})
	return u
}

func (u *Upstream) serve(w http.ResponseWriter, r *http.Request) {
	got := Received{Method: r.Method, Path: r.RequestURI, Host: r.Host, Header: r.Header}
	if u.handler == nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // The client, or a policy, has broken the request off.
		}
		got.Body, got.Trailer = string(body), r.Trailer
	}
	u.mu.Lock()
	u.received = append(u.received, got)
	u.mu.Unlock()
	if why := r.Header.Get(MustNotArrive); why != "" {
		u.t.Errorf("a request that must be refused reached the upstream (%s): %s %s %v", why, got.Method, got.Path, got.Header)
	}
	if u.handler != nil {
		u.handler.ServeHTTP(w, r)
		return
	}
	status := http.StatusOK
	if s := r.Header.Get(Answer); s != "" {
		var err error
		if status, err = strconv.Atoi(s); err != nil {
			u.t.Errorf("the upstream is asked for the status %q", s)
			status = http.StatusBadGateway
		}
	}
	for _, line := range r.Header.Values(AnswerHeader) {
		var name, value string
		if _, err := fmt.Sscanf(line, "%s %s", &name, &value); err != nil {
			u.t.Errorf("the upstream is asked for the header %q", line)
		}
		w.Header().Add(name, value)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Upstream", "reached")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(got) // An error means that the client has gone.
}

// Received returns all that has arrived so far.
func (u *Upstream) Received() []Received {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]Received(nil), u.received...)
}

// Count is how many requests have arrived so far.
func (u *Upstream) Count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.received)
}
