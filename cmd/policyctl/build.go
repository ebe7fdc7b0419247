package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/policies"
)

// checkPolicies builds every policy of every chain as a worker would.
func (v *validation) checkPolicies(known catalogue) {
	world := newDryWorld(v.now, v.workers, v.unread)
	for i := range v.kernel.Routes {
		r := &v.kernel.Routes[i]
		for j := range r.Request.Chain {
			v.checkPolicy(known, world, r.Name, "request", &r.Request.Chain[j])
		}
		for j := range r.Response.Chain {
			v.checkPolicy(known, world, r.Name, "response", &r.Response.Chain[j])
		}
	}
	if err := world.close(); err != nil {
		v.fail(config.Pos{File: v.kernel.File}, "a policy can't be closed: %v", err)
	}
}

func (v *validation) checkPolicy(known catalogue, world *dryWorld, route, flow string, p *config.Policy) {
	pos := p.Pos
	pos.Path += ".policy"
	d, ok := known[p.Name]
	switch {
	case !ok && slices.Contains(v.assumed, p.Name):
		return
	case !ok:
		v.fail(pos, "no worker that comes with the engine offers %q; legal are %s, or those named by --assume-policy", p.Name, known.names())
		return
	case !slices.ContainsFunc(d.Phases(), func(p policies.Phase) bool { return p.IsResponse() == (flow == "response") }):
		v.fail(pos, "policy %q takes no part in the %s flow; its phases are %v", p.Name, flow, d.Phases())
		return
	}
	env := dryEnv{route: route, instance: p.Pos.Path, world: world}
	instance, err := build(d, env, p.Params)
	if err != nil {
		v.paramMistakes(p, err, v.fail)
		return
	}
	if w, ok := instance.(policies.Warner); ok {
		if err := errors.Join(w.Warnings()...); err != nil {
			v.paramMistakes(p, err, v.warn)
		}
	}
	if c, ok := instance.(io.Closer); ok {
		world.closers = append(world.closers, c)
	}
}

func build(d policies.Definition, env policies.Env, params []byte) (instance any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the policy can't be built: it panicked: %v", p)
		}
	}()
	return d.Build(env, params)
}

// paramMistakes tells each of the errors that errors.Join put together, at the line of its parameter.
func (v *validation) paramMistakes(p *config.Policy, err error, report func(config.Pos, string, ...any)) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			v.paramMistakes(p, e, report)
		}
		return
	}
	pos, problem := p.Pos, err.Error()
	pos.Path += ".params"
	var bad *policies.ParamError
	if errors.As(err, &bad) {
		pos.Path += "." + bad.Param
		if line, ok := p.ParamLines[bad.Param]; ok {
			pos.Line = line
		}
		if err == error(bad) {
			problem = bad.Problem
		}
	}
	report(pos, "%s", problem)
}
