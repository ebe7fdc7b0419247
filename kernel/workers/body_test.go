package workers

import (
	"bytes"
	"errors"
	"hash/crc32"
	"strconv"
	"sync"
	"testing"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// answerSum has a worker tell what it was given.
func answerSum(c *workerv1.Call) *workerv1.Result {
	return &workerv1.Result{Id: c.Id, Phase: c.Phase, Outcome: workerv1.Result_OUTCOME_CONTINUE, Reason: sum(c)}
}

// sum tells calls apart by all that a policy sees of them.
func sum(c *workerv1.Call) string {
	return strconv.Itoa(len(c.Body)) + " " + strconv.FormatUint(uint64(crc32.ChecksumIEEE(bytes.Join([][]byte{c.Headers, c.Context, c.Body, c.Trace}, []byte{0}))), 16)
}

// TestBodiesOfOneBatch: calls with large bodies and others arrive as they are, whole, in one batch and many.
func TestBodiesOfOneBatch(t *testing.T) {
	f, path := newFake("w", 1), socketPath(t)
	f.answer = answerSum
	f.start(t, path)
	reg, w := setup(t, func(r *config.WorkerRef) { r.Connections = 1 }, path)
	push(t, reg, 1)
	ready(t, w)
	sizes := []int{0, 100, leastBody - 1, leastBody, 16 << 10, 64 << 10, 64<<10 + 1, 200 << 10, 1 << 20, 3 << 20}
	for round := range 3 {
		var probes []*probe
		var calls []*route.Call
		for i := range 24 {
			p := newProbe(t, 1)
			p.Message.Phase, p.Message.EndOfStream = workerv1.Phase_PHASE_REQUEST_BODY, true
			p.Message.Context, p.Message.Trace = bytes.Repeat([]byte("c"), i), []byte("trace")
			p.Message.Body = bytes.Repeat([]byte{byte(i)}, sizes[(i+round)%len(sizes)])
			probes, calls = append(probes, p), append(calls, &p.Call)
		}
		w.EvaluateAll(calls)
		for i, p := range probes {
			want := sum(&p.Message)
			switch r, err := p.wait(); {
			case err != nil:
				t.Errorf("round %d, call %d of %d bytes: %v", round, i, len(p.Message.Body), err)
			case r.Reason != want:
				t.Errorf("round %d, call %d: the worker got %s, want %s", round, i, r.Reason, want)
			}
		}
	}
	p := newProbe(t, 1)
	p.Message.Body = make([]byte, maxCall)
	w.Evaluate(&p.Call)
	if _, err := p.wait(); !errors.Is(err, route.ErrOverloaded) {
		t.Errorf("a call that is too long: %v", err)
	}
	if len(p.Message.Body) != maxCall {
		t.Error("a call that was refused has lost its body")
	}
}

// TestBytesAreTheCallersAfterwards: when a call is completed, its bytes may become those of another request at once, however it ended; no worker sees these.
func TestBytesAreTheCallersAfterwards(t *testing.T) {
	f, path := newFake("w", 1), socketPath(t)
	hold := make(chan struct{})
	var held sync.Once
	var mu sync.Mutex
	spoiled := 0
	f.answer = func(c *workerv1.Call) *workerv1.Result {
		held.Do(func() { <-hold }) // So that the socket fills.
		mu.Lock()
		defer mu.Unlock()
		if bytes.IndexByte(c.Body, 'X') >= 0 {
			spoiled++
		}
		return answerSum(c)
	}
	f.start(t, path)
	reg, w := setup(t, func(r *config.WorkerRef) { r.Connections = 1 }, path)
	push(t, reg, 1)
	ready(t, w)
	var all []*probe
	for range 40 { // 8 MiB: more than the socket and the windows take.
		p := newProbe(t, 1)
		p.Message.Phase, p.Message.EndOfStream = workerv1.Phase_PHASE_REQUEST_BODY, true
		p.Message.Body = bytes.Repeat([]byte{'o'}, 200<<10)
		w.Evaluate(&p.Call)
		all = append(all, p)
	}
	for _, p := range all {
		_, err := p.wait()
		if err != nil && !errors.Is(err, route.ErrTimeout) {
			t.Error(err)
		}
		for i := range p.Message.Body {
			p.Message.Body[i] = 'X'
		}
	}
	close(hold)
	eventually(t, "the worker gets all of them", func() bool { return f.calls.Load() >= int64(len(all)) })
	p := newProbe(t, 1)
	w.Evaluate(&p.Call) // After all of them.
	if _, err := p.wait(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if spoiled > 0 {
		t.Errorf("the worker saw bytes of other requests in %d calls", spoiled)
	}
}
