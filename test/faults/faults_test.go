package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/policy-engine/policy-engine/test/harness"
	"github.com/policy-engine/policy-engine/test/stage"
	"github.com/policy-engine/policy-engine/test/tap"
)

// briefRate is the rate of the short form: the tests of other packages run at the same time.
const briefRate = 200

// built are the programs, once for all tests.
var built *stage.Programs

func build(t *testing.T) *stage.Programs {
	t.Helper()
	if built != nil {
		return built
	}
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	if err := harness.NoteSources(root); err != nil {
		t.Fatal(err)
	}
	programs, err := stage.Build(root, binaries)
	if err != nil {
		t.Fatal(err)
	}
	built = programs
	return programs
}

// binaries is where they are.
var binaries string

func TestMain(m *testing.M) {
	var err error
	if binaries, err = os.MkdirTemp("", "faults-bin-"); err != nil {
		panic(err)
	}
	status := m.Run()
	_ = os.RemoveAll(binaries)
	os.Exit(status)
}

func transport() string {
	if name := os.Getenv("POLICY_ENGINE_TRANSPORT"); name != "" {
		return name
	}
	return "fast"
}

// TestFaults is the short form of `make faults`.
func TestFaults(t *testing.T) {
	programs := build(t)
	for _, name := range []string{pair, single, hostile} {
		t.Run(name, func(t *testing.T) {
			p := plan{rate: briefRate, stages: []string{name}, transport: transport(), brief: true}
			all, err := p.play(t.Context(), programs, func(o *outcome) {
				t.Log(o.line())
				if len(o.Problems) > 0 {
					t.Errorf("%s: %s\n%s", o.Fault, strings.Join(o.Problems, "; "), o.logs)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if s := total(all, briefRate); !s.ok() && !t.Failed() {
				t.Errorf("%v", s)
			}
		})
	}
}

// sabotage is what is done to the kernel's answers on their way to Envoy.
type sabotage = func(tap.Answer) (tap.Change, bool)

func isRefusal(a tap.Answer) bool { return a.Message.GetImmediateResponse() != nil }

func unavailable503(a tap.Answer) bool {
	return a.Message.GetImmediateResponse().GetStatus().GetCode() == typev3.StatusCode_ServiceUnavailable
}

var goOn = &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{}}}

// TestBrokenEngine: an engine that is broken on purpose is found out: in each of these ways, requests bypass it or are lost, and the table says so.
func TestBrokenEngine(t *testing.T) {
	programs := build(t)
	var way atomic.Pointer[sabotage]
	var failOpen atomic.Bool
	var between *tap.Tap
	spec := specs(transport())[single]
	spec.Between = func(kernel string) (string, error) {
		if between != nil {
			return between.Address, nil
		}
		var err error
		between, err = tap.Start(kernel, tap.Options{Falsify: func(a tap.Answer) (tap.Change, bool) {
			if f := way.Load(); f != nil {
				return (*f)(a)
			}
			return tap.Change{}, false
		}})
		if err != nil {
			return "", err
		}
		return between.Address, nil
	}
	spec.EditEnvoy = func(yaml string) string {
		if failOpen.Load() {
			return strings.ReplaceAll(yaml, "failure_mode_allow: false", "failure_mode_allow: true")
		}
		return yaml
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := raise(ctx, single, programs, spec, briefRate, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		r.close()
		between.Close()
	}()
	killed := func(x *exercise) error { return x.ends(syscall.SIGKILL, stage.Worker1) }
	falsify := func(f sabotage, play func(x *exercise) error) func(x *exercise) error {
		return func(x *exercise) error {
			way.Store(&f)
			defer way.Store(nil)
			if play == nil {
				x.inject(false)
				x.hold(1e9)
				return nil
			}
			return play(x)
		}
	}
	answers := atomic.Int64{}
	for _, tt := range []struct {
		name           string
		play           func(x *exercise) error
		bypassed, lost bool
	}{
		{"as it is", func(x *exercise) error { x.inject(false); x.hold(1e9); return nil }, false, false},
		{"the kernel lets pass what it has no worker for", falsify(func(a tap.Answer) (tap.Change, bool) {
			return tap.Change{Answers: []*extprocv3.ProcessingResponse{goOn}}, unavailable503(a)
		}, killed), true, false},
		{"the kernel closes with OK what it has no worker for", falsify(func(a tap.Answer) (tap.Change, bool) {
			return tap.Change{Close: true}, unavailable503(a)
		}, killed), true, false},
		{"the kernel refuses nobody", falsify(func(a tap.Answer) (tap.Change, bool) {
			return tap.Change{Answers: []*extprocv3.ProcessingResponse{goOn}}, isRefusal(a)
		}, nil), true, false},
		{"the kernel forgets the last policy", falsify(func(a tap.Answer) (tap.Change, bool) {
			return tap.Change{Answers: []*extprocv3.ProcessingResponse{goOn}}, a.Index == 0 && !isRefusal(a) && a.Route == "keys"
		}, nil), true, true},
		{"the kernel refuses one of fifty", falsify(func(a tap.Answer) (tap.Change, bool) {
			no := &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{
				ImmediateResponse: &extprocv3.ImmediateResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable}},
			}}
			return tap.Change{Answers: []*extprocv3.ProcessingResponse{no}}, a.Index == 0 && !isRefusal(a) && answers.Add(1)%50 == 0
		}, nil), false, true},
		{"Envoy lets pass what fails", func(x *exercise) error {
			failOpen.Store(true)
			x.inject(true)
			x.KillEnvoy()
			if err := x.StartEnvoy(); err != nil {
				return err
			}
			return errors.Join(x.served(), x.ends(syscall.SIGKILL, stage.Kernel))
		}, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := r.play(&fault{name: tt.name, play: tt.play})
			t.Log(o.line())
			if got, want := fmt.Sprint(o.Count.Bypassed > 0, o.Count.Lost > 0), fmt.Sprint(tt.bypassed, tt.lost); got != want {
				t.Errorf("bypassed and lost are %s, want %s\n%s", got, want, o.logs)
			}
			if (len(o.Problems) > 0) != (tt.bypassed || tt.lost) {
				t.Errorf("the problems are %q", o.Problems)
			}
		})
	}
}

// TestTable: the table itself is in order.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	known := specs("fast")
	for _, f := range faults {
		if seen[f.name] || f.name == "" || f.play == nil {
			t.Errorf("%q: there are two, or nothing is played", f.name)
		}
		seen[f.name] = true
		for _, name := range append(f.on, f.brief...) {
			if _, ok := known[name]; !ok {
				t.Errorf("%q: stage %q is unknown", f.name, name)
			}
		}
		for _, name := range f.brief {
			if !f.playsOn(name) {
				t.Errorf("%q: the short form plays it on %q, and the long one does not", f.name, name)
			}
		}
	}
	if len(faults) < 20 {
		t.Errorf("%d faults, want 20 at least", len(faults))
	}
}
