package transport

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// expectIdle waits until all streams have ended, and checks that each machine was closed.
func (r *rig) expectIdle(opened int) {
	r.t.Helper()
	eventually(r.t, "every machine was closed", func() bool { return r.log.count("close") == opened })
}

func TestEffects(t *testing.T) {
	tests := []struct {
		name    string
		message string
		answer  string
		end     codes.Code
	}{
		{"finish", "finish", "finished", codes.OK},
		{"fail", "fail", "", codes.Aborted},
		{"a failure never ends with OK", "fail with OK", "", codes.Internal},
		{"an unknown effect fails", "nonsense", "", codes.Internal},
		{"call", "call", "evaluated", codes.OK},
		{"calls one after the other", "three calls", "evaluated", codes.OK},
		{"panic", "panic", "", codes.Internal},
		{"panic after a call", "panic in complete", "", codes.Internal},
	}
	for _, inline := range []bool{true, false} {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				r := newRig(t)
				r.evaluator.inline = inline
				f := r.stream(t.Context())
				f.send("answer")
				f.expect("answered")
				f.send("wait")
				f.send(tt.message)
				done := make(chan struct{})
				var worker sync.WaitGroup
				worker.Go(func() {
					for {
						select {
						case c := <-r.evaluator.calls:
							r.complete(c, &workerv1.Result{}, nil)
						case <-done:
							return
						}
					}
				})
				if tt.answer != "" {
					f.expect(tt.answer)
				}
				f.expectEnd(tt.end)
				close(done)
				worker.Wait()
				r.expectIdle(1)
			})
		}
	}
}

func TestRouteName(t *testing.T) {
	r := newRig(t)
	for _, name := range []string{"", "orders"} {
		ctx := t.Context()
		if name != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, routeKey, name)
		}
		f := r.stream(ctx)
		f.send("finish")
		f.expect("finished")
		f.expectEnd(codes.OK)
		if r.log.count("open "+name) != 1 {
			t.Errorf("the machine was not opened with route %q", name)
		}
	}
	r.stream(metadata.AppendToOutgoingContext(t.Context(), routeKey, "a", routeKey, "b")).expectEnd(codes.InvalidArgument)
	r.stream(metadata.AppendToOutgoingContext(t.Context(), routeKey, "panic")).expectEnd(codes.Internal)
	r.expectIdle(3)
}

func TestHalfCloseNeverAllows(t *testing.T) {
	r := newRig(t)
	f := r.stream(t.Context())
	f.send("wait")
	if err := f.CloseSend(); err != nil {
		t.Fatal(err)
	}
	f.expectEnd(codes.Internal)
	if r.log.count("half-close") != 1 {
		t.Error("the machine did not hear of it")
	}
	r.expectIdle(1)
}

func TestCancelDuringACall(t *testing.T) {
	r := newRig(t)
	f := r.stream(t.Context())
	f.send("call")
	c := <-r.evaluator.calls
	f.cancel()
	eventually(t, "the handler has ended", func() bool { return r.server.Streams() == 0 && r.log.count("abort") == 1 })
	if r.log.count("close") != 0 {
		t.Error("closed before the call was completed")
	}
	// Another stream can't get the same machine meanwhile: script would complain.
	g := r.stream(t.Context())
	g.send("call")
	other := <-r.evaluator.calls
	if other == c {
		t.Fatal("two streams share a machine")
	}
	r.complete(c, nil, route.ErrTimeout)
	r.expectIdle(1)
	r.complete(other, &workerv1.Result{}, nil)
	g.expect("evaluated")
	g.expectEnd(codes.OK)
	r.expectIdle(2)
}

func TestPanicsAreContained(t *testing.T) {
	r := newRig(t)
	r.evaluator.inline = true
	bystander := r.stream(t.Context())
	bystander.send("answer")
	bystander.expect("answered")
	for i, message := range []string{"panic", "panic in complete"} {
		f := r.stream(t.Context())
		f.send(message)
		f.expectEnd(codes.Internal)
		if got := int(r.panics.Load()); got != i+1 {
			t.Errorf("%d panics counted, want %d", got, i+1)
		}
	}
	r.expectIdle(2)
	bystander.send("finish")
	bystander.expect("finished")
	bystander.expectEnd(codes.OK)
}

// TestStorm lets answers, cancellations and the end of calls race; script checks that machines are driven as they must be.
func TestStorm(t *testing.T) {
	r := newRig(t)
	stop := make(chan struct{})
	var worker, clients sync.WaitGroup
	worker.Go(func() {
		for {
			select {
			case c := <-r.evaluator.calls:
				worker.Go(func() { r.complete(c, &workerv1.Result{}, nil) })
			case <-stop:
				return
			}
		}
	})
	const streams = 500
	for range 8 {
		clients.Go(func() {
			for range streams / 8 {
				ctx, cancel := context.WithCancel(t.Context())
				f := r.stream(ctx)
				f.send([]string{"call", "three calls", "finish", "wait"}[rand.N(4)])
				if rand.N(2) == 0 {
					cancel()
				} else {
					_ = f.CloseSend()
				}
				var end error
				for end == nil {
					end = f.RecvMsg(&f.frame)
				}
				cancel()
			}
		})
	}
	clients.Wait()
	eventually(t, "all streams have ended", func() bool { return r.server.Streams() == 0 })
	eventually(t, "every machine was closed", func() bool { return r.log.count("close") == r.log.count("open ") })
	close(stop)
	worker.Wait()
	if r.panics.Load() != 0 {
		t.Errorf("%d panics", r.panics.Load())
	}
}
