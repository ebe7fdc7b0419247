package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/config"
)

// TestSlowCallIsMovedAside: a policy that burns processor time inline does not hold up the other requests of its connection of Envoy; its own answer comes, and is right.
func TestSlowCallIsMovedAside(t *testing.T) {
	r := start(t, 2)
	defer r.end()
	r.ready()
	slow := r.ask("burn")
	<-r.entered
	began := time.Now()
	for range 20 {
		if got := answer(t, r.ask("deny", "x-deny", "1")); !strings.HasPrefix(got, "403") {
			t.Fatalf("a neighbour: %s", got)
		}
		if got := answer(t, r.ask("there-and-back")); got != "ABA" && got != "A>B>A" {
			t.Fatalf("a neighbour of two workers: %s", got)
		}
	}
	time.Sleep(time.Until(began.Add(20 * time.Millisecond))) // On grpc-go, the neighbours do not wait until it is moved.
	close(r.burnt)
	if got := answer(t, slow); got != "A" {
		t.Errorf("the slow one: %s", got)
	}
	if got := r.log.String(); !strings.Contains(got, "slow policy") || !strings.Contains(got, "burnA") {
		t.Errorf("the log does not name the policy: %s", got)
	}
}

// TestMovedCallTimesOut: a call that was moved aside and does not return is denied when its timeout has passed. On grpc-go each
// request has a goroutine, and nothing is moved: the call is denied when it returns too late.
func TestMovedCallTimesOut(t *testing.T) {
	r := start(t, 2)
	defer r.end()
	r.ready()
	began := time.Now()
	slow := r.ask("burn-late")
	<-r.entered
	if transport() == string(config.TransportGRPC) {
		time.AfterFunc(time.Second, func() { close(r.burnt) })
	}
	if got := answer(t, slow); !strings.HasPrefix(got, "50") {
		t.Errorf("%s", got)
	}
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("denied after %v, before its timeout", took)
	}
}
