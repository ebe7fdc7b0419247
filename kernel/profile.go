package kernel

import (
	"errors"
	"net/http"
	"net/http/pprof"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/policy-engine/policy-engine/kernel/workers"
)

// profiles serves /debug/pprof/ of the kernel, and of the workers, who have no port of their own.
func (k *kernel) profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /workers/{worker}/debug/pprof/{profile}", k.workerProfile)
	return mux
}

const (
	// defaultProfileSeconds is what net/http/pprof takes, too.
	defaultProfileSeconds = 30
	maxProfileSeconds     = 60
)

// workerProfile answers with a profile of a worker's process: profile is the CPU's, for ?seconds=30, all others have their names of runtime/pprof. ?replica=0 says which
// one of several.
func (k *kernel) workerProfile(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	replica, err := number(query, "replica", 0, 0, 1<<16)
	seconds, serr := number(query, "seconds", defaultProfileSeconds, 1, maxProfileSeconds)
	if err = errors.Join(err, serr); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	name, duration := r.PathValue("profile"), time.Duration(0)
	if name == "profile" {
		name, duration = "cpu", time.Duration(seconds)*time.Second
	}
	profile, err := k.registry.Profile(r.Context(), r.PathValue("worker"), replica, name, duration)
	var nobody *workers.NoReplicaError
	switch {
	case err == nil:
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(profile) // It fails only when the peer is gone.
	case errors.As(err, &nobody), status.Code(err) == codes.NotFound:
		http.Error(w, err.Error(), http.StatusNotFound)
	case status.Code(err) == codes.FailedPrecondition:
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		http.Error(w, err.Error(), http.StatusBadGateway)
	}
}

// number reads a whole number of the query.
func number(query url.Values, key string, otherwise, from, to int) (int, error) {
	if !query.Has(key) {
		return otherwise, nil
	}
	n, err := strconv.Atoi(query.Get(key))
	if err != nil || n < from || n > to {
		return 0, errors.New(key + " " + strconv.Quote(query.Get(key)) + "; legal are " + strconv.Itoa(from) + " to " + strconv.Itoa(to))
	}
	return n, nil
}
