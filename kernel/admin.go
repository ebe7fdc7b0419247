package kernel

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/kernel/listener"
	"github.com/policy-engine/policy-engine/kernel/workers"
)

// readiness is the body of /health/ready.
type readiness struct {
	Ready bool `json:"ready"`
	// Missing is what has to be mended before the kernel is ready.
	Missing []string `json:"missing"`
	// Workers have their replicas, with sockets and errors, only for those who may see the guarded pages.
	Workers []workers.WorkerStatus `json:"workers"`
}

// readiness is what /health/ready answers. Without detail, it has no paths, addresses and errors in it.
func (k *kernel) readiness(detail bool) readiness {
	r := readiness{Missing: []string{}, Workers: k.registry.Status()}
	if k.draining.Load() {
		r.Missing = append(r.Missing, "the kernel is draining")
	}
	if problem := k.distributor.state(); problem != "" {
		if !detail {
			problem = "the newest one is not in use; the log says why"
		}
		r.Missing = append(r.Missing, "configuration: "+problem)
	}
	for i := range r.Workers {
		w := &r.Workers[i]
		if !w.Available {
			r.Missing = append(r.Missing, "worker "+w.Name+": no replica is healthy and has the configuration")
		}
		if !detail {
			w.Replicas = nil
		}
	}
	r.Ready = len(r.Missing) == 0
	return r
}

// admin is the server of metrics and health, which are for everyone, and of the guarded pages, which are not. guarded is true for that of a listener of the guarded pages alone.
func (k *kernel) admin(guarded bool) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		done := k.pages.turn(r)
		if done == nil {
			tooMany(w)
			return
		}
		var page bytes.Buffer                  // A scraper that reads slowly holds no slot.
		_ = k.writeMetrics(r.Context(), &page) // A buffer does not fail.
		done()
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(page.Bytes()) // It fails only when the scraper is gone.
	})
	mux.HandleFunc("GET /health/live", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]bool{"live": true})
	})
	mux.HandleFunc("GET /health/ready", func(w http.ResponseWriter, req *http.Request) {
		r := k.readiness(k.access.allowed(req))
		status := http.StatusOK
		if !r.Ready {
			status = http.StatusServiceUnavailable
		}
		writeJSON(w, status, r)
	})
	profiles := k.access.guard(k.pages.bounded(k.profiles()))
	mux.Handle("/debug/pprof/", profiles)
	mux.Handle("/workers/{worker}/debug/pprof/", profiles)
	for pattern, page := range map[string]http.HandlerFunc{
		"GET /config": k.configPage, "POST /config/reload": k.reloadPage, "GET /workers": k.workersPage, "GET /routes": k.routesPage,
		"GET /log/level": k.levelPage, "PUT /log/level": k.levelPage,
	} {
		mux.Handle(pattern, k.access.guard(k.pages.bounded(page)))
	}
	return &http.Server{
		Handler: followed(mux), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		WriteTimeout: 2 * time.Minute, // A CPU profile takes as long as it is asked to.
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.Background(), guardedKey{}, guarded)
		},
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			return context.WithValue(context.WithValue(ctx, connKey{}, nc), remoteKey{}, nc.RemoteAddr())
		},
	}
}

type (
	// connKey is the key of a request's context under which its connection is, and remoteKey that of its peer's address.
	connKey   struct{}
	remoteKey struct{}
)

// remote is the address of the peer.
func remote(r *http.Request) net.Addr {
	peer, _ := r.Context().Value(remoteKey{}).(net.Addr)
	return peer
}

// followed tells the listener which connections have requests, so that it closes others to make room, and bounds how long a peer may take to read an answer.
func followed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*listener.Conn); ok {
			c.Begin()
			defer c.End()
			c.Answered() // Its headers have come in time.
		}
		if r.Method == http.MethodGet && !strings.Contains(r.URL.Path, "/debug/pprof/") {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(slotWait + pageWrite)) // Where it is not supported, the server's own counts.
		}
		next.ServeHTTP(w, r)
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // It fails only when the peer is gone.
}
