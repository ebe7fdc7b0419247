package extproc

import (
	"bytes"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// duplexRig is a machine for long bodies in full duplex.
func duplexRig(t testing.TB, policy string) (*world, *Machine) {
	w := newWorld()
	w.bodies = NewBudget(1 << 20)
	for _, line := range []string{"worker w1 p@" + policy, "route orders request p response p"} {
		if err := w.setUp(words(line)); err != nil {
			t.Fatal(err)
		}
	}
	w.kernel.Limits.MaxBodySize = 512 << 10
	return w, New(w.settings(t))
}

func bodyOf(t testing.TB, bytes []byte, end bool) []byte {
	msg, err := proto.Marshal(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: bytes, EndOfStream: end}}})
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// pieces takes the answers that follow, and returns the bytes given back; kinds are what they were.
func pieces(t testing.TB, w *world, m *Machine, e Effect) (got []byte, kinds string) {
	for {
		answer := new(extprocv3.ProcessingResponse)
		if err := proto.Unmarshal(whole(e), answer); err != nil || e.Kind != KindAnswer {
			t.Fatal(e.Kind, err)
		}
		switch {
		case answer.GetRequestHeaders() != nil:
			kinds += "h"
		case answer.GetRequestBody() != nil:
			piece := answer.GetRequestBody().GetResponse().GetBodyMutation().GetStreamedResponse()
			if piece == nil || len(piece.Body) > maxPiece {
				t.Fatalf("a piece of %d bytes: %v", len(piece.GetBody()), piece != nil)
			}
			got = append(got, piece.Body...)
			if kinds += "b"; piece.EndOfStream {
				kinds += "!"
			}
		}
		if !e.More {
			return got, kinds
		}
		e = m.Next(w.now)
	}
}

// TestLongBodiesGoInPieces: what is given back is cut as Envoy recommends, the end is said once, with the last piece, and nothing is lost.
func TestLongBodiesGoInPieces(t *testing.T) {
	long := bytes.Repeat([]byte("0123456789abcdef"), 12<<10) // Three pieces, all of them full.
	for _, tc := range []struct {
		name, policy, want string
		body, made         []byte
	}{
		{"whole", "b", "hbbb!", long, nil},
		{"whole, and a byte more", "b", "hbbbb!", append(long[:len(long):len(long)], 'x'), nil},
		{"whole, replaced by less", "b", "hb!", long, []byte("short")},
		{"whole, replaced by nothing", "b", "hb!", long, []byte{}},
		{"a chunk", "c", "bbb!", long, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, m := duplexRig(t, tc.policy)
			m.Open("orders", 0)
			e := m.Message(mustMessage(t, "request_headers", ":method=POST", "full_duplex"), 1)
			if whole := tc.policy == "b"; whole != (e.Kind == KindWait) {
				t.Fatal(e.Kind)
			}
			e = m.Message(bodyOf(t, tc.body, true), 2)
			for e.Kind == KindCall {
				r := &workerv1.Result{Phase: requestBody, Outcome: workerv1.Result_OUTCOME_CONTINUE, BodyReplaced: tc.made != nil, Body: tc.made, Context: []byte("c")}
				e = m.Complete(e.Call, r, nil, 3)
			}
			want := tc.body
			if tc.made != nil {
				want = tc.made
			}
			if got, kinds := pieces(t, w, m, e); !bytes.Equal(got, want) || kinds != tc.want {
				t.Errorf("%d bytes in the answers %s; want %d in %s", len(got), kinds, len(want), tc.want)
			}
			m.Close()
			w.checkReleased(t)
		})
	}
}

// TestStreamGoneBetweenPieces: what was not sent yet is freed, and nobody decides twice.
func TestStreamGoneBetweenPieces(t *testing.T) {
	w, m := duplexRig(t, "b")
	m.Open("orders", 0)
	m.Message(mustMessage(t, "request_headers", ":method=POST", "full_duplex"), 1)
	e := m.Message(bodyOf(t, make([]byte, 200<<10), true), 2)
	if e = m.Complete(e.Call, &workerv1.Result{Phase: requestBody, Outcome: workerv1.Result_OUTCOME_CONTINUE, Context: []byte("c")}, nil, 3); !e.More {
		t.Fatal(e.Kind)
	}
	m.Abort(4)
	if e := m.Next(5); e.Kind != KindFail {
		t.Errorf("after the end: %v", e.Kind)
	}
	m.Close()
	w.checkReleased(t)
	if len(w.decisions) != 1 {
		t.Errorf("decisions %q", w.decisions)
	}
	m.Open("orders", 6) // Its next stream knows nothing of it.
	if e := m.Next(7); e.Kind != KindFail {
		t.Errorf("a next answer of nothing: %v", e.Kind)
	}
	m.Close()
}

// TestBudgetBoundsGathered: what streams hold of bodies that have not ended counts for all of them together.
func TestBudgetBoundsGathered(t *testing.T) {
	w, m := duplexRig(t, "b")
	others := []*Machine{m, New(m.settings), New(m.settings)}
	refused := 0
	for _, m := range others {
		m.Open("orders", 0)
		m.Message(mustMessage(t, "request_headers", ":method=POST", "full_duplex"), 1)
		if e := m.Message(bodyOf(t, make([]byte, 500<<10), false), 2); e.Kind == KindFinish {
			refused++
		} else if e.Kind != KindWait {
			t.Fatal(e.Kind)
		}
	}
	if refused != 1 || w.bodies.Used() != 1000<<10 {
		t.Errorf("%d refused, %d bytes used", refused, w.bodies.Used())
	}
	for _, m := range others {
		m.Close()
	}
	w.checkReleased(t)
}

// TestDuplexDoesNotAllocate: nor do chunks that pass, with a policy and without.
func TestDuplexDoesNotAllocate(t *testing.T) {
	chunk := bodyOf(t, make([]byte, 16<<10), false)
	for _, policy := range []string{"h", "c"} {
		w, m := duplexRig(t, policy)
		m.settings.Observer, m.settings.Tracer = nil, nil
		r := &workerv1.Result{Phase: requestHeaders, Outcome: workerv1.Result_OUTCOME_CONTINUE, Context: []byte("c")}
		m.Open("orders", 0)
		if e := m.Message(mustMessage(t, "request_headers", ":method=POST", "full_duplex"), 1); e.Kind == KindCall {
			m.Complete(e.Call, r, nil, 2)
		}
		r.Phase = requestBody
		if allocs := testing.AllocsPerRun(100, func() {
			e := m.Message(chunk, 3)
			if e.Kind == KindCall {
				e = m.Complete(e.Call, r, nil, 4)
			}
			if e.Kind != KindAnswer {
				t.Fatal(e.Kind)
			}
		}); allocs != 0 {
			t.Errorf("%s: %v allocations per chunk", policy, allocs)
		}
		m.Close()
		w.checkReleased(t)
	}
}
