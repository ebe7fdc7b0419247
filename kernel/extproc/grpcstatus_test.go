package extproc

import (
	"net/http"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// TestGRPCStatusOfRefusals: each refusal, a policy's or the kernel's own, has the gRPC status of one table, and its message as text; only for clients of gRPC.
func TestGRPCStatusOfRefusals(t *testing.T) {
	deny := func(status uint32, body string) *workerv1.Result {
		return &workerv1.Result{
			Outcome: workerv1.Result_OUTCOME_IMMEDIATE, Policy: "auth", Reason: "no", Immediate: &workerv1.ImmediateResponse{Status: status, Body: []byte(body)},
		}
	}
	withStatus := deny(403, "")
	withStatus.Immediate.GrpcStatus = proto.Uint32(5)
	jsonBody := func(message string) string { return `{"error":"` + message + `","code":"NO"}` }
	for _, tc := range []struct {
		contentType string
		result      *workerv1.Result
		err         error
		grpc        int // -1: Envoy gets none
		body        string
	}{
		{contentType: "application/grpc", result: deny(429, jsonBody("too many requests")), grpc: int(codes.ResourceExhausted), body: "too many requests"},
		{contentType: "application/grpc+proto", result: deny(401, jsonBody("who?")), grpc: int(codes.Unauthenticated), body: "who?"},
		{contentType: "application/grpc", result: deny(403, jsonBody("no")), grpc: int(codes.PermissionDenied), body: "no"},
		{contentType: "application/grpc", result: deny(404, jsonBody("no")), grpc: int(codes.Unimplemented), body: "no"},
		{contentType: "application/grpc", result: deny(400, jsonBody("no")), grpc: int(codes.InvalidArgument), body: "no"},
		{contentType: "application/grpc", result: deny(413, jsonBody("no")), grpc: int(codes.ResourceExhausted), body: "no"},
		{contentType: "application/grpc", result: deny(503, jsonBody("no")), grpc: int(codes.Unavailable), body: "no"},
		{contentType: "application/grpc", result: deny(504, jsonBody("no")), grpc: int(codes.DeadlineExceeded), body: "no"},
		{contentType: "application/grpc", result: deny(418, jsonBody("no")), grpc: int(codes.Unknown), body: "no"},
		{contentType: "application/grpc", result: deny(403, jsonBody(`a \"b\" \u00e9`)), grpc: int(codes.PermissionDenied), body: `a "b" é`},
		{contentType: "application/grpc", result: deny(403, "a text of its own"), grpc: int(codes.PermissionDenied), body: "a text of its own"},
		{contentType: "application/grpc", result: deny(403, `{"error":"a","code":"NO","more":"x"}`), grpc: int(codes.PermissionDenied), body: `{"error":"a","code":"NO","more":"x"}`},
		{contentType: "application/grpc", result: withStatus, grpc: 5},
		{contentType: "application/grpc", result: deny(200, "x"), grpc: -1, body: "x"},
		{contentType: "application/grpc", err: route.ErrTimeout, grpc: int(codes.DeadlineExceeded), body: "policy worker timeout"},
		{contentType: "application/grpc", err: route.ErrOverloaded, grpc: int(codes.Unavailable), body: "policy worker overloaded"},
		{contentType: "application/grpc", err: route.ErrRouteOverloaded, grpc: int(codes.Unavailable), body: "too many requests of this route"},
		{contentType: "application/grpc", result: mustResult(t, "FAILED failure=POLICY_ERROR policy=auth"), grpc: int(codes.Internal), body: "policy failed"},
		{
			contentType: "application/grpc", result: mustResult(t, "FAILED failure=POLICY_OVERLOADED policy=auth"),
			grpc: int(codes.Unavailable), body: "policy overloaded",
		},
		{contentType: "application/grpc-web", result: deny(429, jsonBody("no")), grpc: -1, body: jsonBody("no")},
		{contentType: "application/grpcx", result: deny(429, jsonBody("no")), grpc: -1, body: jsonBody("no")},
		{contentType: "application/json", result: deny(429, jsonBody("no")), grpc: -1, body: jsonBody("no")},
	} {
		for _, inResponse := range []bool{false, true} {
			w := newWorld()
			w.workers = []*worker{{name: "w1", policies: []string{"auth"}}}
			if err := w.setUp(words("route orders request auth response auth")); err != nil {
				t.Fatal(err)
			}
			m := New(w.settings(t))
			m.Open("orders", 0)
			e := m.Message(mustMessage(t, "request_headers", words(":method=POST :path=/a.B/C end_of_stream content-type="+tc.contentType)...), 1)
			phase := requestHeaders
			if inResponse {
				phase = responseHeaders
				ok := mustResult(t, "CONTINUE context=c")
				ok.Phase = requestHeaders
				m.Complete(e.Call, ok, nil, 2)
				e = m.Message(mustMessage(t, "response_headers", words(":status=200 content-type=text/plain end_of_stream")...), 3)
			}
			if e.Kind != KindCall {
				t.Fatalf("effect %v", e.Kind)
			}
			if tc.err != nil {
				e = m.Complete(e.Call, nil, tc.err, 4)
			} else {
				r := proto.CloneOf(tc.result)
				r.Phase = phase
				e = m.Complete(e.Call, r, nil, 4)
			}
			answer := mustAnswer(t, e).GetImmediateResponse()
			got := -1
			if answer.GetGrpcStatus() != nil {
				got = int(answer.GetGrpcStatus().GetStatus())
			}
			if got != tc.grpc || string(answer.GetBody()) != tc.body {
				t.Errorf("%s %v %v, in the response: %v: gRPC status %d with %q, want %d with %q", tc.contentType, tc.result, tc.err, inResponse, got, answer.GetBody(), tc.grpc, tc.body)
			}
			m.Close()
		}
	}
}

// TestEveryRefusalHasAGRPCStatus: no refusal of the kernel's own is UNKNOWN, or OK.
func TestEveryRefusalHasAGRPCStatus(t *testing.T) {
	for _, r := range []refusal{
		unknownRoute, malformedRequest, malformedResponse, unsupportedMode, workerTimeout, workerOverloaded, illegalResult, policyError, policyPanic, policyTimeout, policyOverloaded,
		requestTooLarge, responseTooLarge, requestBodyTooLarge, responseBodyTooLarge, requestCoding, responseCoding, upgradeRefused,
	} {
		if code := grpcCode(r.status); code == codes.OK || code == codes.Unknown {
			t.Errorf("%d %s: gRPC status %v", r.status, r.reason, code)
		}
		if message, code, ok := messageOf(r.body); !ok || message == "" || code == "" {
			t.Errorf("%s: message %q, code %q", r.body, message, code)
		}
	}
	for status := 400; status < 600; status++ {
		if http.StatusText(status) != "" && grpcCode(status) == codes.OK {
			t.Errorf("%d is OK for clients of gRPC", status)
		}
	}
}

// mustAnswer reads the answer of an effect.
func mustAnswer(t testing.TB, e Effect) *extprocv3.ProcessingResponse {
	t.Helper()
	answer := new(extprocv3.ProcessingResponse)
	if err := proto.Unmarshal(append(append([]byte(nil), e.Answer...), e.Tail...), answer); err != nil {
		t.Fatal(err)
	}
	return answer
}
