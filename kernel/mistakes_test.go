package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
)

func mistake(path string) *workerv1.ConfigError {
	return &workerv1.ConfigError{Path: path, Message: "is wrong; right is legal"}
}

func TestMistakesAtTheStart(t *testing.T) {
	policy := "policy_kernel.route_policies[1].request_flow.policy_chain[0]"
	tests := []struct{ name, path, want string }{
		{"parameter", policy + ".params.key_store", "kernel.yaml:14: " + policy + ".params.key_store: is wrong; right is legal (says worker worker-1)"},
		{"element of a list", policy + ".params.list[1]", "kernel.yaml:15: " + policy + ".params.list[1]: is wrong; right is legal (says worker worker-1)"},
		{"parameter that is missing", policy + ".params.other", "kernel.yaml:12: " + policy + ".params.other: is wrong; right is legal (says worker worker-1)"},
		{"the policy", policy, "kernel.yaml:12: " + policy + ": is wrong; right is legal (says worker worker-1)"},
		{"a path that is not in the file", "elsewhere", "kernel.yaml: elsewhere: is wrong; right is legal (says worker worker-1)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := socketPath(t)
			f := &fakeWorker{name: "worker-1", policies: []string{"guard"}}
			f.setReject(mistake(tt.path))
			r := launch(t, path, nil)
			f.start(t, path)
			err := r.wait()
			var found config.Errors
			if !errors.As(err, &found) || len(found) != 1 || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestMistakeOfTheCompiler(t *testing.T) {
	path := socketPath(t)
	r := launch(t, path, func(cfg *config.Kernel, _ *Options) { cfg.Routes = append(cfg.Routes, cfg.Routes[0]) })
	var found config.Errors
	if err := r.wait(); !errors.As(err, &found) || len(found) != 1 || found[0].Pos.File != "kernel.yaml" {
		t.Errorf("got %v", err)
	}
}

func TestLastGoodStays(t *testing.T) {
	path := socketPath(t)
	f := &fakeWorker{name: "worker-1", policies: []string{"guard"}}
	kill := f.start(t, path)
	r := launch(t, path, nil)
	r.ready()
	eventually(t, "one generation is left", func() bool { return f.held() == 1 })
	kill()

	// The worker comes back with another policy, so that a new table is made, which it rejects; the one before it accepts.
	next := &pickyWorker{fakeWorker: fakeWorker{name: "worker-1", policies: []string{"guard", "more"}}, inUse: func() uint64 {
		lines := r.log.lines(`"message":"configuration in use"`)
		var last struct {
			Metadata struct{ Generation uint64 }
		}
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
			t.Error(err)
		}
		return last.Metadata.Generation
	}}
	next.start(t, path)
	eventually(t, "the mistake is logged", func() bool { return len(r.log.lines("kernel.yaml:14: ")) > 0 })
	defer func() {
		if t.Failed() {
			t.Log(next.accept.Load(), r.log.lines(""))
		}
	}()
	eventually(t, "the last good one is in use", func() bool { return r.ask("guarded") == 0 })
	if code, body := r.get("/health/ready"); code != http.StatusServiceUnavailable || !strings.Contains(body, "configuration: ") {
		t.Errorf("readiness %d %s", code, body)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if n := len(r.log.lines("kernel.yaml:14: ")); n != 1 {
		t.Errorf("the mistake was logged %d times", n)
	}
}

// pickyWorker accepts one generation only: the one in use before the kernel knew what it offers.
type pickyWorker struct {
	fakeWorker
	inUse  func() uint64
	accept atomic.Uint64
}

func (p *pickyWorker) GetWorkerConfig(ctx context.Context, req *workerv1.GetWorkerConfigRequest) (*workerv1.GetWorkerConfigResponse, error) {
	p.accept.CompareAndSwap(0, p.inUse())
	return p.fakeWorker.GetWorkerConfig(ctx, req)
}

func (p *pickyWorker) start(t *testing.T, path string) {
	t.Helper()
	p.fakeWorker.reject = nil
	startServer(t, path, p, &p.fakeWorker)
}

func (p *pickyWorker) PushConfig(ctx context.Context, req *workerv1.PushConfigRequest) (*workerv1.PushConfigResponse, error) {
	if req.Generation != p.accept.Load() {
		return &workerv1.PushConfigResponse{Errors: []*workerv1.ConfigError{mistake("policy_kernel.route_policies[1].request_flow.policy_chain[0].params.key_store")}}, nil
	}
	return p.fakeWorker.PushConfig(ctx, req)
}
