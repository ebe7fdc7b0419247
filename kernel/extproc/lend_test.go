package extproc

import (
	"bytes"
	"testing"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// TestLentBodiesAreNotCopied: of a message that is lent, a call has the bytes themselves; of one that is not, a copy. When the message has been answered, whoever lent it may write to it.
func TestLentBodiesAreNotCopied(t *testing.T) {
	for _, lent := range []bool{true, false} {
		w, m := duplexRig(t, "c")
		m.Open("orders", 0)
		e := m.Message(mustMessage(t, "request_headers", ":method=POST", "full_duplex"), 1)
		if e.Kind != KindAnswer {
			t.Fatal(e.Kind)
		}
		msg := bodyOf(t, nil, false)
		for i := range 3 {
			chunk := bytes.Repeat([]byte{byte('a' + i)}, 150<<10)
			msg = append(msg[:0], bodyOf(t, chunk, i == 2)...)
			take := m.Message
			if lent {
				take = m.Lend
			}
			e = take(msg, 2)
			if !lent {
				scribble(msg)
			}
			calls := 0
			for ; e.Kind == KindCall; calls++ {
				body := e.Call.Message.Body
				at := bytes.Index(msg, body)
				if aliases := at >= 0 && &msg[at] == &body[0]; aliases != (lent && calls == 0) && calls == 0 {
					t.Errorf("lent %t: the call's body is the message's: %t", lent, aliases)
				}
				e = m.Complete(e.Call, &workerv1.Result{Phase: requestBody, Outcome: workerv1.Result_OUTCOME_CONTINUE, Context: []byte("c")}, nil, 3)
			}
			if got, _ := pieces(t, w, m, e); !bytes.Equal(got, chunk) || calls != 3 {
				t.Errorf("lent %t: chunk %d became %d other bytes, in %d calls", lent, i, len(got), calls)
			}
			scribble(msg)
			if m.body.message != nil || m.body.bytes != nil || m.outlet.bytes != nil {
				t.Errorf("lent %t: the machine keeps bytes of chunk %d, which has been answered", lent, i)
			}
		}
		m.Close()
		w.checkReleased(t)
	}
}

// scribble makes a message useless.
func scribble(msg []byte) {
	for i := range msg {
		msg[i] = 'X'
	}
}
