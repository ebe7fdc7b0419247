package transport

import (
	"context"
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/codec"
)

// watch opens a watch of the health and says nothing.
func (r *rig) watch(ctx context.Context) grpc.ClientStream {
	r.t.Helper()
	s, err := r.client.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, healthv1.Health_Watch_FullMethodName)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func endOf(s grpc.ClientStream) codes.Code {
	for {
		err := s.RecvMsg(&codec.Frame{})
		switch {
		case errors.Is(err, io.EOF):
			return codes.OK
		case err != nil:
			return status.Code(err)
		}
	}
}

// TestSilentWatches: a watch that has not said of what counts from its beginning, gives its place back, and does not hold up the drain.
func TestSilentWatches(t *testing.T) {
	if name() != config.TransportFast {
		t.Skip("grpc-go bounds watches by the streams of a connection, and waits for them until the drain deadline")
	}
	r := newRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	const places = 256
	request, err := proto.Marshal(&healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	silent, leave := context.WithCancel(ctx)
	for range places {
		r.watch(silent)
	}
	if code := endOf(r.watch(ctx)); code != codes.ResourceExhausted {
		t.Errorf("one watch too many ended with %v", code)
	}
	leave()
	var last grpc.ClientStream
	eventually(t, "the places are free again", func() bool {
		last = r.watch(ctx)
		return last.SendMsg(&codec.Frame{B: request}) == nil && last.RecvMsg(&codec.Frame{}) == nil
	})
	// One that ends without a question gives its place back too.
	for range places + 1 {
		s := r.watch(ctx)
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if code := endOf(s); code != codes.Internal {
			t.Fatalf("half-closed without a question: %v", code)
		}
	}
	mute := r.watch(ctx)
	// An answer says that the server has seen all watches.
	if _, err := healthv1.NewHealthClient(r.client).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		r.server.Drain(ctx)
	}()
	if err := last.RecvMsg(&codec.Frame{}); err != nil {
		t.Errorf("a watch heard %v before the end", err)
	}
	for _, s := range []grpc.ClientStream{last, mute} {
		if code := endOf(s); code != codes.Unavailable {
			t.Errorf("a watch ended with %v", code)
		}
	}
	<-drained
	if ctx.Err() != nil {
		t.Error("the watches held up the drain")
	}
}

// TestSetServing: health checkers and watches hear of it; requests are taken all the same.
func TestSetServing(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	client := healthv1.NewHealthClient(r.client)
	watch, err := client.Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		for _, service := range []string{"", "envoy.service.ext_proc.v3.ExternalProcessor"} {
			if resp, err := client.Check(ctx, &healthv1.HealthCheckRequest{Service: service}); err != nil || resp.Status != want {
				t.Errorf("%q: got %v, %v; want %v", service, resp, err, want)
			}
		}
		for { // What a watch hears first may be older.
			resp, err := watch.Recv()
			if err != nil {
				t.Fatalf("the watch ended: %v", err)
			}
			if resp.Status == want {
				break
			}
		}
	}
	expect(healthv1.HealthCheckResponse_SERVING)
	r.server.SetServing(false)
	expect(healthv1.HealthCheckResponse_NOT_SERVING)
	r.server.SetServing(true)
	expect(healthv1.HealthCheckResponse_SERVING)
}
