// Package engine is the one-process form: the kernel and its workers in one process, with method calls in place of the sockets between them.
package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel"
	"github.com/policy-engine/policy-engine/kernel/workers"
	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/telemetry"
	"github.com/policy-engine/policy-engine/worker"
)

// Policies are what one worker offers.
type Policies []policies.Definition

// Worker is a worker of the process.
type Worker struct {
	Config *config.Worker
	// Registry has the policies that it offers.
	Registry *worker.Registry
	Log      *telemetry.Logger
}

// matchWorkers refuses workers that the kernel does not know: nobody would call them.
func matchWorkers(cfg *config.Kernel, ws []Worker) error {
	var names []string
	for i := range cfg.Workers {
		names = append(names, cfg.Workers[i].Name)
	}
	var errs config.Errors
	files := make(map[string]string)
	for _, w := range ws {
		pos := config.Pos{File: w.Config.File, Path: "policy_worker.name"}
		first, twice := files[w.Config.Name]
		files[w.Config.Name] = w.Config.File
		switch {
		case twice:
			errs = append(errs, config.Error{Pos: pos, Problem: fmt.Sprintf("%q is the name of %s too; legal is one file for a worker", w.Config.Name, first)})
		case len(names) == 0:
			errs = append(errs, config.Error{Pos: pos, Problem: fmt.Sprintf("%q is not a worker of %s, which has none", w.Config.Name, cfg.File)})
		case !slices.Contains(names, w.Config.Name):
			errs = append(errs, config.Error{Pos: pos, Problem: fmt.Sprintf("%q is not a worker of %s; legal are %s", w.Config.Name, cfg.File, strings.Join(names, ", "))})
		}
	}
	return errs.Err()
}

// Run runs the kernel and the workers until ctx ends and the kernel has drained. Workers of the kernel's configuration that are not among them are called over their
// sockets. The error is a config.Errors or has a sourceError if the configuration has mistakes.
func Run(ctx context.Context, cfg *config.Kernel, ws []Worker, o kernel.Options) error {
	if err := matchWorkers(cfg, ws); err != nil {
		return err
	}
	o.Local = make(map[string]workers.Local, len(ws))
	var errs []error
	for _, w := range ws {
		core, err := worker.Embed(w.Config, w.Registry, worker.Options{Version: o.Version, Log: w.Log.Slog().With("worker", w.Config.Name), LogLost: w.Log.Lost})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defer core.Close() // When the kernel has ended: nobody waits for a result any more.
		o.Local[w.Config.Name] = local{core.Protocol(), core}
	}
	if err := errors.Join(errs...); err != nil {
		return &sourceError{err}
	}
	return kernel.Run(ctx, cfg, o)
}

// sourceError is a mistake in what the configuration of a worker names.
type sourceError struct{ error }

func (e *sourceError) Unwrap() error { return e.error }
