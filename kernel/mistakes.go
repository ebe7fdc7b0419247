package kernel

import (
	"errors"
	"strings"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/kernel/workers"
)

// mistakes translates an error of route.Compile or workers.Registry.Push into mistakes with their places in the file. It returns nil for errors of another kind.
func mistakes(cfg *config.Kernel, err error) config.Errors {
	var all config.Errors
	if errors.As(err, &all) {
		return all
	}
	var compiled route.Errors
	if errors.As(err, &compiled) {
		for _, e := range compiled {
			all = append(all, config.Error{Pos: e.Pos, Problem: cfg.Hide(e.Pos.Path, e.Problem)})
		}
	}
	var rejected *workers.RejectedError
	if errors.As(err, &rejected) {
		policies := policiesByPath(cfg)
		for _, r := range rejected.Rejections {
			for _, ce := range r.Errors {
				all = append(all, config.Error{Pos: locate(cfg, policies, ce.Path), Problem: cfg.Hide(ce.Path, ce.Message) + " (says worker " + r.Worker + ")"})
			}
		}
	}
	_ = all.Err() // For its order: by line.
	return all
}

func policiesByPath(cfg *config.Kernel) map[string]*config.Policy {
	policies := make(map[string]*config.Policy)
	for i := range cfg.Routes {
		r := &cfg.Routes[i]
		for _, chain := range [...][]config.Policy{r.Request.Chain, r.Response.Chain} {
			for j := range chain {
				policies[chain[j].Pos.Path] = &chain[j]
			}
		}
	}
	return policies
}

// locate finds the line of a path that begins with a policy's path and goes on into its parameters; the nearest that is in the file counts.
func locate(cfg *config.Kernel, policies map[string]*config.Policy, path string) config.Pos {
	pos := config.Pos{File: cfg.File, Path: path}
	for prefix := path; prefix != ""; prefix = parent(prefix) {
		p := policies[prefix]
		if p == nil {
			continue
		}
		pos.Line = p.Pos.Line
		below := strings.TrimPrefix(path[len(prefix):], ".params")
		for below = strings.TrimPrefix(below, "."); below != ""; below = parent(below) {
			if line, ok := p.ParamLines[below]; ok {
				pos.Line = line
				break
			}
		}
		break
	}
	return pos
}

// parent cuts the last element off a path: a.b[1] is followed by a.b and a.
func parent(path string) string {
	i := strings.LastIndexAny(path, ".[")
	return path[:max(0, i)]
}
