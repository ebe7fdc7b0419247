package conformance

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

// scenarioHeader tells the upstream whose request it is.
const scenarioHeader = "X-Scenario"

// upstreamText is the body of the upstream's answers that say nothing else.
const upstreamText = "from the upstream\n"

// upstream answers as the scenarios say and records what arrives, over HTTP/1.1 and HTTP/2.
type upstream struct {
	address string
	answers map[string]answer

	mu       sync.Mutex
	received map[string][]*message
	strays   []string
}

func startUpstream(t testing.TB, scenarios []*scenario) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{address: l.Addr().String(), answers: map[string]answer{}, received: map[string][]*message{}}
	for _, s := range scenarios {
		u.answers[s.name] = s.answer
	}
	server := &http.Server{Handler: http.HandlerFunc(u.serve), ReadHeaderTimeout: harness.Timeout, Protocols: new(http.Protocols)}
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

func (u *upstream) serve(w http.ResponseWriter, r *http.Request) {
	name := r.Header.Get(scenarioHeader)
	a, known := u.answers[name]
	got := &message{method: r.Method, path: r.RequestURI, host: r.Host, protocol: r.Proto, header: r.Header.Clone()}
	u.mu.Lock()
	u.received[name] = append(u.received[name], got)
	if !known {
		u.strays = append(u.strays, got.String())
	}
	u.mu.Unlock()
	if a.handler != nil {
		a.handler(w, r)
		u.mu.Lock()
		got.done = true
		u.mu.Unlock()
		return
	}
	body, err := io.ReadAll(r.Body)
	u.mu.Lock()
	got.body, got.broken, got.trailer, got.done = string(body), err, r.Trailer.Clone(), true
	u.mu.Unlock()
	if err != nil {
		return // The client, or a policy, has broken the request off.
	}
	a.write(w)
}

func (a answer) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("X-Upstream", "reached")
	h.Set("Content-Type", "text/plain")
	for _, line := range a.lines {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Content-Type" {
			h.Del(name)
		}
		h.Add(name, value)
	}
	for _, line := range a.trailers {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(http.TrailerPrefix+name, value)
	}
	status := a.status
	if status == 0 {
		status = http.StatusOK
	}
	body := a.body
	if body == "" && status != http.StatusNoContent && status != http.StatusNotModified {
		body = upstreamText
	}
	if len(a.trailers) == 0 && h.Get("Transfer-Encoding") == "" && body != "" {
		h.Set("Content-Length", fmt.Sprint(len(body)))
	}
	w.WriteHeader(status)
	if len(a.trailers) > 0 {
		_ = http.NewResponseController(w).Flush()
	}
	_, _ = io.WriteString(w, body) // An error means that the client has gone.
}

// of returns what has arrived of a scenario.
func (u *upstream) of(name string) []message {
	u.mu.Lock()
	defer u.mu.Unlock()
	var all []message
	for _, m := range u.received[name] {
		all = append(all, *m)
	}
	return all
}
