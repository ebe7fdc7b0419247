package transport

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/codec"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// ping waits until the server has read all that was sent before. Grpc-go takes more than a few for an attack.
func (p *player) ping() {
	p.t.Helper()
	p.must(p.fr.WritePing(false, [8]byte{'q'}))
	for p.pong = false; !p.pong; {
		p.read()
	}
}

// TestQueuesShareABound: what waits behind calls is bounded for all streams together, not only for each, and streams that are gone keep nothing, though their calls are
// still outstanding.
func TestQueuesShareABound(t *testing.T) {
	if name() != config.TransportFast {
		t.Skip("handlers of grpc-go read no message before they need it")
	}
	r := newRig(t)
	const streams, size, cost, most = 600, 60_000, 60_064, 32 << 20
	body := []byte(strings.Repeat("b", size))
	p := newPlayer(t, r.listener.Addr().String())
	defer p.nc.Close()
	for round := range 2 { // The calls of the rounds before are still outstanding.
		waiting := map[uint32]bool{}
		for range streams {
			id := p.open(&call{fields: requestFields(processMethod)})
			waiting[id] = true
			p.do(id, step{data: framed(0, []byte("call"))})
			p.do(id, step{data: framed(0, body)})
		}
		p.ping()
		for id := range waiting {
			if o := p.streams[id]; o.ended {
				delete(waiting, id)
				if o.status != "8" {
					t.Errorf("round %d: %v; want RESOURCE_EXHAUSTED", round, o)
				}
			}
		}
		if n := len(waiting); n != most/cost {
			t.Errorf("round %d: the messages of %d streams wait, want %d", round, n, most/cost)
		}
		for id := range waiting {
			p.do(id, step{reset: true})
		}
		p.ping()
	}
	for range 2 * streams {
		r.complete(<-r.evaluator.calls, &workerv1.Result{}, nil)
	}
	r.expectIdle(2 * streams)
}

// TestQueueKeepsOrder: messages behind calls are delivered one by one, in their order, whatever was taken out before.
func TestQueueKeepsOrder(t *testing.T) {
	r := newRig(t)
	p := newPlayer(t, r.listener.Addr().String())
	defer p.nc.Close()
	id := p.open(&call{fields: requestFields(processMethod)})
	send := func(messages ...string) {
		var b []byte
		for _, m := range messages {
			b = append(b, framed(0, []byte(m))...)
		}
		p.do(id, step{data: b})
	}
	answers := 0
	expect := func(n int) {
		t.Helper()
		answers += n
		p.do(id, step{await: answers})
	}
	send("call and answer")
	for i := range 200 {
		c := <-r.evaluator.calls
		send([]string{"wait", "answer", "wait"}[i%3:]...)
		send("answer", "call and answer", "answer")
		if name() == config.TransportFast {
			p.ping() // All of them wait.
		}
		r.complete(c, &workerv1.Result{}, nil)
		expect(2) // Of the call, and behind it.
		if i%3 < 2 {
			expect(1)
		}
		r.complete(<-r.evaluator.calls, &workerv1.Result{}, nil)
		expect(2)
		send("call and answer")
	}
	r.complete(<-r.evaluator.calls, &workerv1.Result{}, nil)
	expect(1)
	send("finish")
	for o := p.streams[id]; !o.ended; {
		p.read()
	}
	if o := p.streams[id]; o.status != "0" || o.messages[len(o.messages)-1] != "finished" || len(o.messages) != answers+1 {
		t.Errorf("%v, %d messages; want %d", o, len(o.messages), answers+1)
	}
	r.expectIdle(1)
}

// TestAnswersInARow: what follows an answer at once is sent before the next message is delivered, also behind a call, and may end the stream.
func TestAnswersInARow(t *testing.T) {
	r := newRig(t)
	f := r.stream(t.Context())
	f.send("three answers")
	f.send("call and answer")
	f.send("three answers")
	f.send("two answers and finish")
	for range 3 {
		f.expect("answered")
	}
	r.complete(<-r.evaluator.calls, &workerv1.Result{}, nil)
	for range 1 + 3 + 2 {
		f.expect("answered")
	}
	f.expect("finished")
	f.expectEnd(codes.OK)

	f = r.stream(t.Context())
	f.send("panic in next")
	f.expect("answered")
	f.expectEnd(codes.Internal)
	r.expectIdle(2)
}

// TestLongQueuePausesThePeer: a peer that sends without waiting for answers, as Envoy does in full duplex, is held up by the stream's window, and not ended; all it sends is
// taken in its order.
func TestLongQueuePausesThePeer(t *testing.T) {
	r := newRig(t)
	f := r.stream(t.Context())
	const messages, size = 600, 64 << 10 // 18 MB, far more than a queue takes.
	sent := make(chan error, 1)
	f.send("call and answer")
	var progress atomic.Int64
	go func() {
		for i := range messages {
			wait := "wait" + strings.Repeat(" ", size>>(i%4)) + string(rune('0'+i%10)) // It has no answer.
			if err := f.SendMsg(&codec.Frame{B: []byte(wait)}); err != nil {
				sent <- err
				return
			}
			progress.Add(1)
		}
		sent <- nil
	}()
	first := <-r.evaluator.calls
	eventually(t, "the peer sends some", func() bool { return progress.Load() > 3 })
	select {
	case err := <-sent:
		t.Fatalf("all was taken: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	r.complete(first, &workerv1.Result{}, nil)
	f.expect("answered")
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	f.send("finish")
	f.expect("finished")
	f.expectEnd(codes.OK)
	r.expectIdle(1)
	if lent := r.log.count("lend"); name() == config.TransportFast && lent < messages/4 {
		t.Errorf("%d of the messages were lent", lent)
	}
}

// TestLentWhileMoreComes: what the machine was lent stays as it is while its call is outstanding and further messages arrive, on memory that is used again and again.
func TestLentWhileMoreComes(t *testing.T) {
	r := newRig(t)
	f := r.stream(t.Context())
	const messages = 100
	go func() {
		for i := range messages {
			msg := "call and answer" + strings.Repeat(" ", 20_000+i%3*15_000) + string(rune('0'+i%10))
			if err := f.SendMsg(&codec.Frame{B: []byte(msg)}); err != nil {
				t.Errorf("message %d: %v", i, err)
				return
			}
		}
	}()
	for range messages {
		c := <-r.evaluator.calls
		r.complete(c, &workerv1.Result{}, nil)
		f.expect("answered")
	}
	f.send("finish")
	f.expect("finished")
	f.expectEnd(codes.OK)
	if lent := r.log.count("lend"); name() == config.TransportFast && lent < messages/4 {
		t.Errorf("%d of the messages were lent", lent)
	}
}

// TestLongMessagesTakeTurns: of many long messages at a time, none is refused, and few are here at a time.
func TestLongMessagesTakeTurns(t *testing.T) {
	r := newRig(t)
	const streams, most = 40, 8 // 1 MiB each.
	long := "call" + strings.Repeat(" ", 1<<20-100)
	var all []*flow
	for range streams {
		f := r.stream(t.Context())
		f.send(long)
		all = append(all, f)
	}
	short := r.stream(t.Context())
	for done := 0; done < streams; {
		var calls []*route.Call
		for range min(most-1, streams-done) { // And one on its way, perhaps.
			calls = append(calls, <-r.evaluator.calls)
		}
		short.send("answer")
		short.expect("answered")
		if n := len(calls) + len(r.evaluator.calls); n > most {
			t.Errorf("%d messages of 1 MiB are in hand", n)
		}
		for _, c := range calls {
			r.complete(c, &workerv1.Result{}, nil)
			done++
		}
	}
	for _, f := range all {
		f.expect("evaluated")
		f.expectEnd(codes.OK)
	}
	short.send("finish")
	short.expect("finished")
	short.expectEnd(codes.OK)
	r.expectIdle(streams + 1)
}
