package extproc

import (
	"bytes"
	"fmt"
	"testing"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

func setOf(phases ...workerv1.Phase) (s phaseSet) {
	for _, p := range phases {
		s.add(p)
	}
	return s
}

// TestInOrder: which message may follow which.
func TestInOrder(t *testing.T) {
	all := []workerv1.Phase{requestHeaders, requestBody, requestTrailers, responseHeaders, responseBody, responseTrailers}
	request := setOf(requestHeaders)
	for _, tc := range []struct {
		name  string
		m     *Machine
		legal phaseSet
	}{
		{"nothing came", &Machine{wanted: request}, request},
		{"request headers undecided", &Machine{wanted: request, seen: request}, 0},
		{
			"request headers allowed, response not wanted",
			&Machine{wanted: request, seen: request, answered: request},
			setOf(requestBody, requestTrailers, responseHeaders, responseBody, responseTrailers),
		},
		{
			"request headers allowed, response wanted",
			&Machine{wanted: setOf(requestHeaders, responseHeaders), seen: request, answered: request},
			setOf(requestBody, requestTrailers, responseHeaders),
		},
		{
			"request ended",
			&Machine{wanted: setOf(requestHeaders, responseHeaders), seen: request, answered: request, requestDone: true},
			setOf(responseHeaders),
		},
		{
			"response headers answered",
			&Machine{wanted: request, seen: setOf(requestHeaders, responseHeaders), answered: setOf(requestHeaders, responseHeaders), requestDone: true},
			setOf(responseBody, responseTrailers),
		},
		{
			"response body without headers",
			&Machine{wanted: request, seen: setOf(requestHeaders, responseBody), answered: request, requestDone: true},
			setOf(responseBody, responseTrailers),
		},
		{
			"all ended",
			&Machine{wanted: request, seen: setOf(all...), answered: setOf(all...), requestDone: true, responseDone: true},
			0,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, p := range all {
				if got := tc.m.inOrder(p); got != tc.legal.has(p) {
					t.Errorf("%v: %v", p, got)
				}
			}
			if tc.m.inOrder(0) {
				t.Error("no phase at all is legal")
			}
		})
	}
}

func TestMisuseOfMachinePanics(t *testing.T) {
	settings := &Settings{Routes: route.NewStore(route.Terms{}, nil)}
	for name, misuse := range map[string]func(*Machine){
		"opened twice":                  func(m *Machine) { m.Open("a", 0) },
		"closed with a call under way":  func(m *Machine) { m.calling = true; m.Close() },
		"closed with a call, after end": func(m *Machine) { m.calling = true; m.Abort(0); m.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			m := New(settings)
			m.Open("a", 0)
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			misuse(m)
		})
	}
}

// TestMachineThatIsNotOpen: events before Open and after Close let nothing pass.
func TestMachineThatIsNotOpen(t *testing.T) {
	m := New(&Settings{Routes: route.NewStore(route.Terms{UnknownRoute: config.UnknownRouteContinue}, nil)})
	for i := range 2 {
		if e := m.Message(mustMessage(t, "request_headers"), 0); e.Kind != KindFail {
			t.Errorf("message: %v", e.Kind)
		}
		if e := m.HalfClose(0); e.Kind != KindWait {
			t.Errorf("half close: %v", e.Kind)
		}
		if e := m.Drain(0); e.Kind != KindWait {
			t.Errorf("drain: %v", e.Kind)
		}
		m.Abort(0)
		m.Close()
		if i == 0 {
			m.Open("a", 0)
			m.Close()
		}
	}
}

// TestCloseGivesLargeBuffersBack: one large message must not stay in memory for as long as the machine.
func TestCloseGivesLargeBuffersBack(t *testing.T) {
	m := New(&Settings{Routes: route.NewStore(route.Terms{}, nil)})
	m.Open("a", 0)
	m.Message(mustMessage(t, "request_headers", "a="+string(bytes.Repeat([]byte{'x'}, maxKept+1))), 0)
	m.Close()
	if m.requestMap != nil || m.call.Message.Headers != nil {
		t.Errorf("%d bytes are kept", cap(m.requestMap))
	}
}

// TestConfiguredResponseWithoutStatus: Envoy would make 200 of it.
func TestConfiguredResponseWithoutStatus(t *testing.T) {
	m := New(&Settings{Routes: route.NewStore(route.Terms{}, nil)}) // No table: WorkerUnavailable, which is empty.
	m.Open("a", 0)
	w := newWorld()
	if got := w.show(m.Message(mustMessage(t, "request_headers"), 0)); w.answers[0].GetImmediateResponse().GetStatus().GetCode() != 500 {
		t.Error(got)
	}
}

func TestStatusNames(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Statuses() {
		if s.String() == "" || seen[s.String()] || s == StatusNone {
			t.Errorf("status %d is named %q", s, s)
		}
		seen[s.String()] = true
	}
	if got := fmt.Sprint(StatusAllowed, StatusInternal, len(seen)); got != "allowed internal 23" {
		t.Error(got)
	}
}
