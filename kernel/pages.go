package kernel

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// The pages of /routes.
const (
	defaultRoutes = 100
	maxRoutes     = 1000
)

// effective is the body of /config.
type effective struct {
	File       string `json:"file"`
	SHA256     string `json:"sha256"`
	Generation uint64 `json:"generation"`
	// Problem is why the newest configuration is not in use; empty if it is.
	Problem    string      `json:"problem,omitempty"`
	LogLevel   string      `json:"log_level"` // as it is now
	LastReload *Outcome    `json:"last_reload"`
	Config     config.Tree `json:"policy_kernel"`
}

func (k *kernel) configPage(w http.ResponseWriter, _ *http.Request) {
	cfg := k.distributor.config()
	tree, err := config.EffectiveKernel(cfg.File, cfg.Text)
	if err != nil { // It was parsed before.
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, http.StatusOK, effective{
		File: cfg.File, SHA256: hex.EncodeToString(cfg.Digest[:]), Generation: k.distributor.routes.Current().Generation(), Problem: k.distributor.state(),
		LogLevel: k.log.Level(), LastReload: k.reloader.outcome(), Config: tree,
	})
}

func (k *kernel) workersPage(w http.ResponseWriter, _ *http.Request) {
	shown := map[string]any{"workers": k.registry.Status()}
	if conflicts := k.distributor.routes.Current().Conflicts(); len(conflicts) > 0 {
		shown["policy_conflicts"] = conflicts
	}
	writeJSON(w, http.StatusOK, shown)
}

// routesPage shows the plans of ?name=…, or of the routes that begin with ?prefix=…, ?limit= of them from ?offset= on, in the order of the file.
func (k *kernel) routesPage(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	offset, err := number(query, "offset", 0, 0, 1<<30)
	limit, lerr := number(query, "limit", defaultRoutes, 1, maxRoutes)
	if err = errors.Join(err, lerr); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	table := k.distributor.routes.Current()
	var found []*route.Route
	if query.Has("name") {
		if one := table.Lookup(query.Get("name")); one != nil {
			found = []*route.Route{one}
		}
	} else {
		prefix := query.Get("prefix")
		for _, one := range table.Routes() {
			if strings.HasPrefix(one.Name, prefix) {
				found = append(found, one)
			}
		}
	}
	shown := []route.Shown{}
	for _, one := range found[min(offset, len(found)):min(offset+limit, len(found))] {
		shown = append(shown, one.Show())
	}
	status := http.StatusOK
	if query.Has("name") && len(found) == 0 {
		status = http.StatusNotFound
	}
	writeJSON(w, status, map[string]any{"generation": table.Generation(), "total": len(found), "offset": offset, "routes": shown})
}

func (k *kernel) levelPage(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<10))
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		asked := struct {
			Level string `json:"level"`
		}{strings.TrimSpace(string(body))}
		if strings.HasPrefix(asked.Level, "{") {
			asked.Level = ""
			_ = json.Unmarshal(body, &asked) // What can't be read is no level.
		}
		before := k.log.Level()
		if err := k.log.SetLevel(asked.Level); err != nil {
			http.Error(w, "log level "+strconv.Quote(asked.Level)+`; legal are debug, info, warn and error, as a text or as {"level":"…"}`, http.StatusBadRequest)
			return
		}
		k.log.Slog().Warn("log level changed by the admin", "before", before, "now", asked.Level)
	}
	writeJSON(w, http.StatusOK, map[string]string{"level": k.log.Level()})
}

// reloadPage takes the configuration file over, and answers with what came of it.
func (k *kernel) reloadPage(w http.ResponseWriter, r *http.Request) {
	if k.reloader.file == "" {
		http.Error(w, "the configuration did not come from a file", http.StatusConflict)
		return
	}
	outcome := k.reloader.reload(r.Context(), "admin")
	status := http.StatusOK
	switch outcome.Status {
	case statusRefused:
		status = http.StatusUnprocessableEntity
	case statusFailed:
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, outcome)
}
