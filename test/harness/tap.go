package harness

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/test/tap"
)

// startTap starts the tap, if there is to be one, and gives the arguments of `policyctl envoy` that put it before the kernel.
func (e *Engine) startTap() []string {
	e.t.Helper()
	if e.spec.Untapped || slices.ContainsFunc(e.spec.EnvoyArgs, func(arg string) bool { return strings.HasPrefix(arg, "--engine") }) {
		return nil
	}
	if e.Tap != nil { // Envoy was started before.
		return []string{"--engine", e.Tap.Address}
	}
	var err error
	if e.Tap, err = tap.Start(e.ExtProc, tap.Options{Falsify: e.spec.Falsify}); err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(e.Tap.Close)
	return []string{"--engine", e.Tap.Address}
}

// messageTimeout is how policyctl prints Envoy's patience.
var messageTimeout = regexp.MustCompile(`(?m)^\s*(?:message_timeout|messageTimeout): "?([0-9.]+s)`)

// setTapTimeout reads Envoy's message_timeout.
func (e *Engine) setTapTimeout(yaml string) {
	e.t.Helper()
	found := messageTimeout.FindStringSubmatch(yaml)
	if e.Tap == nil {
		return
	}
	if found == nil {
		e.t.Fatal("Envoy's configuration has no message_timeout")
	}
	timeout, err := time.ParseDuration(found[1])
	if err != nil {
		e.t.Fatal(err)
	}
	e.Tap.SetTimeout(timeout)
}

// watchTap looks, before Envoy ends, at what was wrong.
func (e *Engine) watchTap() {
	if e.Tap == nil || e.spec.Falsify != nil {
		return
	}
	e.t.Cleanup(func() {
		for _, problem := range e.Tap.Problems() {
			e.t.Errorf("between Envoy and the kernel: %s", problem)
		}
	})
}
