package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/policy-engine/policy-engine/fastpath/codec"
	"github.com/policy-engine/policy-engine/test/harness"
)

const grpcRoutes = twoWorkers + `  route_policies:
    - route_name: gate
      request_flow:
        policy_chain:
          - {policy: answerA, params: {if: x-e2e-must-not-arrive, status: 403}}
          - {policy: answerB, params: {if: x-who, status: 401}}
          - {policy: witnessA, params: {name: a}}
    - route_name: both
      request_flow: {policy_chain: [{policy: answerA, params: {if: x-e2e-must-not-arrive, status: 403}}, {policy: witnessA, params: {name: a}}]}
      response_flow: {policy_chain: [{policy: answerA, params: {if_response: x-hide, status: 403}}, {policy: witnessB, params: {name: back}}]}
    - route_name: chunks
      request_flow: {policy_chain: [{policy: sumB}, {policy: chunkA, params: {name: a, find: secret, with: "******"}}, {policy: witnessA, params: {name: a}}]}
      response_flow: {policy_chain: [{policy: chunkB, params: {name: b, find: hidden, with: "******"}}]}
    - route_name: whole
      request_flow: {policy_chain: [{policy: answerA, params: {if: x-e2e-must-not-arrive, status: 403}}, {policy: bodyA, params: {name: a, deny_if: forbidden}}]}
    - route_name: whole-response
      response_flow: {policy_chain: [{policy: bodyB, params: {name: b, deny_if: forbidden}}]}
`

// grpcEcho sends back each message that it gets: at once, or, of streams that only the client sends on, all when the client has ended.
type grpcEcho struct{ t *testing.T }

// startGRPC serves methods below each route's path: Envoy's routes are prefixes, and a method's path begins with its service.
func startGRPC(t *testing.T, routes ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &grpcEcho{t}
	server := grpc.NewServer(grpc.ForceServerCodecV2(codec.Codec{}))
	for _, route := range routes {
		server.RegisterService(&grpc.ServiceDesc{ServiceName: route, HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{
			{StreamName: "Each", Handler: u.each, ServerStreams: true, ClientStreams: true},
			{StreamName: "Collect", Handler: u.collect, ClientStreams: true},
			{StreamName: "Repeat", Handler: u.repeat, ServerStreams: true},
			{StreamName: "Fail", Handler: u.fail, ServerStreams: true},
		}}, struct{}{})
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return l.Addr().String()
}

// begin checks that nothing arrives that had to be refused, and tells the client what the policies told the upstream.
func (u *grpcEcho) begin(s grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	if why := md.Get(harness.MustNotArrive); len(why) > 0 {
		u.t.Errorf("a call that must be refused reached the upstream: %s", why)
	}
	return s.SendHeader(metadata.MD{"x-upstream-saw": md.Get("x-seen-a"), "x-hide": md.Get("x-ask-hide")})
}

func (u *grpcEcho) each(_ any, s grpc.ServerStream) error {
	if err := u.begin(s); err != nil {
		return err
	}
	for {
		var f codec.Frame
		switch err := s.RecvMsg(&f); {
		case errors.Is(err, io.EOF):
			s.SetTrailer(metadata.Pairs("x-end", "each"))
			return nil
		case err != nil:
			return err
		}
		if err := s.SendMsg(&f); err != nil {
			return err
		}
	}
}

func (u *grpcEcho) collect(_ any, s grpc.ServerStream) error {
	if err := u.begin(s); err != nil {
		return err
	}
	var all []byte
	for {
		var f codec.Frame
		switch err := s.RecvMsg(&f); {
		case errors.Is(err, io.EOF):
			return s.SendMsg(&codec.Frame{B: all})
		case err != nil:
			return err
		}
		all = append(all, f.B...)
	}
}

func (u *grpcEcho) repeat(_ any, s grpc.ServerStream) error {
	if err := u.begin(s); err != nil {
		return err
	}
	var f codec.Frame
	if err := s.RecvMsg(&f); err != nil {
		return err
	}
	for i := range 3 {
		if err := s.SendMsg(&codec.Frame{B: fmt.Appendf(nil, "%s %d", f.B, i)}); err != nil {
			return err
		}
	}
	return nil
}

// fail answers with nothing but trailers.
func (u *grpcEcho) fail(_ any, _ grpc.ServerStream) error {
	return status.Error(codes.FailedPrecondition, "the upstream's own")
}

// grpcClient calls methods through Envoy.
type grpcClient struct {
	t    *testing.T
	conn *grpc.ClientConn
}

func dialGRPC(t *testing.T, e *harness.Engine) *grpcClient {
	t.Helper()
	conn, err := grpc.NewClient(e.Listen, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec.Codec{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &grpcClient{t, conn}
}

// open begins a call; headers are names and values by turns.
func (c *grpcClient) open(method string, headers ...string) grpc.ClientStream {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), headers...), harness.Timeout)
	c.t.Cleanup(cancel)
	s, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// call sends messages, ends its side, and returns what comes back, and how the call ended.
func (c *grpcClient) call(method string, messages []string, headers ...string) ([]string, metadata.MD, *status.Status) {
	c.t.Helper()
	s := c.open(method, headers...)
	for _, m := range messages {
		if err := s.SendMsg(&codec.Frame{B: []byte(m)}); err != nil {
			break // The status says more.
		}
	}
	_ = s.CloseSend()
	var got []string
	for {
		var f codec.Frame
		if err := s.RecvMsg(&f); err != nil {
			header, _ := s.Header()
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return got, header, status.Convert(err)
		}
		got = append(got, string(f.B))
	}
}

func (c *grpcClient) wantStatus(got *status.Status, code codes.Code, text string) {
	c.t.Helper()
	if got.Code() != code || text != "" && got.Message() != text {
		c.t.Errorf("status %v %q, want %v %q", got.Code(), got.Message(), code, text)
	}
}

func TestProtocolGRPC(t *testing.T) {
	t.Parallel()
	upstream := startGRPC(t, "gate", "both", "chunks", "whole", "whole-response")
	e := harness.StartEngine(t, harness.Spec{
		Kernel: grpcRoutes, EnvoyArgs: []string{"--upstream", upstream, "--upstream-http2"},
		Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	})
	for _, route := range []string{"gate", "both", "chunks"} {
		t.Run("calls on "+route, func(t *testing.T) { grpcCalls(t, dialGRPC(t, e), "/"+route+"/") })
		t.Run("turns on "+route, func(t *testing.T) { grpcTurns(t, dialGRPC(t, e), "/"+route+"/Each") })
	}
	t.Run("edited", func(t *testing.T) {
		got, _, end := dialGRPC(t, e).call("/chunks/Each", []string{"a secret", "is hidden"})
		if end.Code() != codes.OK || fmt.Sprint(got) != "[a ****** is ******]" {
			t.Errorf("got %q, %v", got, end)
		}
	})
	t.Run("denied", func(t *testing.T) { grpcDenied(t, dialGRPC(t, e)) })
	t.Run("whole bodies", func(t *testing.T) { grpcWhole(t, dialGRPC(t, e)) })
	wantIdle(t, e)
	checkLogs(t, e, []string{"a", "b"})
}

// grpcCalls: each kind of call passes policies on its headers, with its trailers.
func grpcCalls(t *testing.T, c *grpcClient, prefix string) {
	for _, tt := range []struct {
		method     string
		send, want []string
	}{
		{"Each", []string{"unary"}, []string{"unary"}},
		{"Collect", []string{"a", "b", "c"}, []string{"abc"}},
		{"Repeat", []string{"r"}, []string{"r 0", "r 1", "r 2"}},
		{"Each", nil, nil},
	} {
		got, header, end := c.call(prefix+tt.method, tt.send)
		if fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s: got %q, want %q", tt.method, got, tt.want)
		}
		c.wantStatus(end, codes.OK, "")
		if saw := header.Get("x-upstream-saw"); len(saw) != 1 {
			t.Errorf("%s: the policy's header did not reach the upstream: %v", tt.method, header)
		}
	}
	_, _, end := c.call(prefix+"Fail", []string{"x"})
	c.wantStatus(end, codes.FailedPrecondition, "the upstream's own")
	_, _, end = c.call(prefix+"NoSuchMethod", []string{"x"})
	c.wantStatus(end, codes.Unimplemented, "")
}

// grpcTurns: the response begins, and each message comes back, before the client's next one.
func grpcTurns(t *testing.T, c *grpcClient, method string) {
	s := c.open(method)
	if header, err := s.Header(); err != nil || len(header.Get("x-upstream-saw")) != 1 {
		t.Fatalf("headers before the first message: %v, error %v", header, err)
	}
	for i := range 5 {
		message := fmt.Sprint("message ", i)
		if err := s.SendMsg(&codec.Frame{B: []byte(message)}); err != nil {
			t.Fatal(err)
		}
		var f codec.Frame
		if err := s.RecvMsg(&f); err != nil || string(f.B) != message {
			t.Fatalf("got %q, error %v, want %q", f.B, err, message)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(&codec.Frame{}); !errors.Is(err, io.EOF) || len(s.Trailer().Get("x-end")) != 1 {
		t.Errorf("the end: %v, trailers %v", err, s.Trailer())
	}
}

// grpcDenied: a denial is a gRPC status, with the message in it, whatever the kind of the call.
func grpcDenied(t *testing.T, c *grpcClient) {
	for _, method := range []string{"Each", "Collect", "Repeat"} {
		got, _, end := c.call("/gate/"+method, []string{"m"}, harness.MustNotArrive, "denied")
		c.wantStatus(end, codes.PermissionDenied, "Forbidden")
		if len(got) != 0 {
			t.Errorf("%s: messages %q", method, got)
		}
		_, _, end = c.call("/gate/"+method, []string{"m"}, harness.MustNotArrive, "denied", "x-who", "1")
		c.wantStatus(end, codes.PermissionDenied, "")
	}
	_, _, end := c.call("/gate/Each", []string{"m"}, "x-who", "1")
	c.wantStatus(end, codes.Unauthenticated, "")
	// A denial does not wait for the client's messages.
	s := c.open("/gate/Each", harness.MustNotArrive, "denied, and still open")
	c.wantStatus(status.Convert(s.RecvMsg(&codec.Frame{})), codes.PermissionDenied, "")
	// A response that is hidden: its messages too.
	got, header, end := c.call("/both/Each", []string{"secret"}, "x-ask-hide", "1")
	c.wantStatus(end, codes.PermissionDenied, "")
	if len(got) != 0 || len(header.Get("x-upstream-saw")) != 0 {
		t.Errorf("hidden: messages %q, headers %v", got, header)
	}
	// No route of the engine's: refused, with a status.
	_, _, end = c.call("/elsewhere/Each", []string{"m"}, harness.MustNotArrive, "no route")
	if end.Code() == codes.OK {
		t.Errorf("no route: %v", end)
	}
}

// grpcWhole: calls of one message each way pass policies on whole bodies, and are denied for them.
func grpcWhole(t *testing.T, c *grpcClient) {
	for _, route := range []string{"/whole/", "/whole-response/"} {
		got, _, end := c.call(route+"Collect", []string{"good"})
		c.wantStatus(end, codes.OK, "")
		if fmt.Sprint(got) != "[good]" {
			t.Errorf("%s: got %q", route, got)
		}
		got, _, end = c.call(route+"Collect", []string{"forbidden"})
		c.wantStatus(end, codes.PermissionDenied, "")
		if len(got) != 0 {
			t.Errorf("%s: denied, but got %q", route, got)
		}
	}
	s := c.open("/whole/Each", harness.MustNotArrive, "denied for its headers, before its body")
	c.wantStatus(status.Convert(s.RecvMsg(&codec.Frame{})), codes.PermissionDenied, "")
}
