package kernel

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/policy-engine/policy-engine/kernel/workers"
)

// readiness is the body of /health/ready.
type readiness struct {
	Ready bool `json:"ready"`
	// Missing is what has to be mended before the kernel is ready.
	Missing []string               `json:"missing"`
	Workers []workers.WorkerStatus `json:"workers"`
}

func (k *kernel) readiness() readiness {
	r := readiness{Missing: []string{}, Workers: k.registry.Status()}
	if k.draining.Load() {
		r.Missing = append(r.Missing, "the kernel is draining")
	}
	if problem := k.distributor.state(); problem != "" {
		r.Missing = append(r.Missing, "configuration: "+problem)
	}
	for _, w := range r.Workers {
		if !w.Available {
			r.Missing = append(r.Missing, "worker "+w.Name+": no replica is healthy and has the configuration")
		}
	}
	r.Ready = len(r.Missing) == 0
	return r
}

// admin is the server of metrics and health, which are for everyone, and of pages that are not.
func (k *kernel) admin() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_ = k.writeMetrics(r.Context(), w) // It fails only when the scraper is gone.
	})
	mux.HandleFunc("GET /health/live", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]bool{"live": true})
	})
	mux.HandleFunc("GET /health/ready", func(w http.ResponseWriter, _ *http.Request) {
		r := k.readiness()
		status := http.StatusOK
		if !r.Ready {
			status = http.StatusServiceUnavailable
		}
		writeJSON(w, status, r)
	})
	guarded := k.access.guard
	profiles := guarded(k.profiles())
	mux.Handle("/debug/pprof/", profiles)
	mux.Handle("/workers/{worker}/debug/pprof/", profiles)
	for pattern, page := range map[string]http.HandlerFunc{
		"GET /config": k.configPage, "POST /config/reload": k.reloadPage, "GET /workers": k.workersPage, "GET /routes": k.routesPage,
		"GET /log/level": k.levelPage, "PUT /log/level": k.levelPage,
	} {
		mux.Handle(pattern, guarded(page))
	}
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		WriteTimeout: 2 * time.Minute, // A CPU profile takes as long as it is asked to.
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // It fails only when the peer is gone.
}
