package extproc

import (
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// FuzzMessages feeds raw bytes to a machine whose route denies: nothing may pass without a call, and nothing may end with OK.
func FuzzMessages(f *testing.F) {
	f.Add(mustMessage(f, "request_headers", ":path=/"), mustMessage(f, "response_headers", ":status=200"))
	f.Add(mustMessage(f, "request_headers", ":path=/", "route=orders"), mustMessage(f, "request_body", "body=a"))
	f.Add(mustMessage(f, "request_headers", "latin1"), mustMessage(f, "empty"))
	f.Add(mustMessage(f, "request_headers", "full_duplex", "also=response_headers"), []byte{})
	f.Add(mustMessage(f, "request_headers", "full_duplex", ":path=/"), mustMessage(f, "request_body", "body=a", "end_of_stream"))
	f.Add(mustMessage(f, "request_headers", "response_duplex", ":path=/"), mustMessage(f, "request_trailers", "x-a=1"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		w := newWorld()
		for _, line := range []string{"worker w1 auth", "route orders request auth response auth"} {
			if err := w.setUp(words(line)); err != nil {
				t.Fatal(err)
			}
		}
		m := New(w.settings(t))
		m.Open("orders", 0)
		e := m.Message(first, 1)
		switch e.Kind {
		case KindCall:
			r := &workerv1.Result{Phase: requestHeaders, Outcome: workerv1.Result_OUTCOME_CONTINUE}
			if e = m.Complete(e.Call, r, nil, 2); e.Kind != KindAnswer {
				t.Fatalf("allowed request: %v", e.Kind)
			}
			e = m.Message(second, 3)
			if e.Kind == KindCall {
				m.Complete(e.Call, nil, route.ErrUnavailable, 4)
				break
			}
			mustRefuse(t, e, true)
		default:
			mustRefuse(t, e, false)
		}
		m.Close()
		w.checkReleased(t)
	})
}

// mustRefuse: the effect fails, denies, or (between the phases) answers a body or trailers.
func mustRefuse(t *testing.T, e Effect, between bool) {
	answer := new(extprocv3.ProcessingResponse)
	if err := proto.Unmarshal(whole(e), answer); err != nil {
		t.Fatal(err)
	}
	switch {
	case e.Kind == KindFail && e.Code != codes.OK:
	case e.Kind == KindFinish && answer.GetImmediateResponse() != nil:
	case between && e.Kind == KindAnswer && answer.GetResponseHeaders() == nil && answer.GetRequestHeaders() == nil && answer.GetImmediateResponse() == nil:
	default:
		t.Fatalf("%v %v", e.Kind, answer)
	}
}
