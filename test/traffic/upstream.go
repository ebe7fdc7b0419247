package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/policy-engine/policy-engine/test/proof"
)

// Upstream notes in a ledger what reaches it, and answers 200.
type Upstream struct {
	Address string

	server *http.Server
	ended  chan struct{}
}

// StartUpstream listens on a free port of 127.0.0.1, for HTTP/1.1 and HTTP/2. Requests for which others returns a handler are its, and
// are not noted; others may be nil.
func StartUpstream(l *Ledger, others func(*http.Request) http.Handler) (*Upstream, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the upstream: %w", err)
	}
	u := &Upstream{Address: listener.Addr().String(), ended: make(chan struct{})}
	u.server = &http.Server{
		ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1 << 16}, // Envoy does not wait for the settings: beyond them, streams are refused.
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if others != nil {
				if h := others(r); h != nil {
					h.ServeHTTP(w, r)
					return
				}
			}
			// Of each, there must be one: a second proof might be the one that an upstream looks at.
			id, text := r.Header.Values(proof.IDHeader), r.Header.Values(proof.Header)
			if len(id) == 1 && len(text) == 1 {
				l.Arrived(id[0], text[0])
			} else {
				l.Arrived(r.Header.Get(proof.IDHeader), "")
			}
			_, _ = io.Copy(io.Discard, r.Body) // A client or policy that breaks off is no matter here: the request has arrived.
			w.Header().Set("content-length", "3")
			_, _ = io.WriteString(w, "ok\n")
		}),
	}
	u.server.Protocols.SetHTTP1(true)
	u.server.Protocols.SetUnencryptedHTTP2(true)
	go func() {
		defer close(u.ended)
		if err := u.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			panic(err) // Nothing that reaches nobody can be counted.
		}
	}()
	return u, nil
}

// Close ends it.
func (u *Upstream) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if u.server.Shutdown(ctx) != nil {
		_ = u.server.Close()
	}
	<-u.ended
}
