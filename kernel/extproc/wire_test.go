package extproc

import (
	"fmt"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// envoyMessage makes a ProcessingRequest of Envoy's own types. Words: end_of_stream, observability, full_duplex (both
// ways; also request_duplex, response_duplex), streamed_ahead, route=NAME and source=ADDRESS (as attributes, in this
// order), also=KIND (a second member of the oneof), latin1 (a header name that is not UTF-8); all others are name=value
// headers, or body=TEXT.
func envoyMessage(kind string, args []string) ([]byte, error) {
	req := &extprocv3.ProcessingRequest{MetadataContext: &corev3.Metadata{}}
	headers := &corev3.HeaderMap{}
	body, eos, latin1 := "", false, false
	var also []byte
	for _, arg := range args {
		name, value, pair := strings.Cut(strings.TrimPrefix(arg, ":"), "=")
		if strings.HasPrefix(arg, ":") {
			name = ":" + name
		}
		value = unquote(value)
		switch {
		case arg == "end_of_stream":
			eos = true
		case arg == "observability":
			req.ObservabilityMode = true
		case arg == "full_duplex":
			req.ProtocolConfig = &extprocv3.ProtocolConfiguration{
				RequestBodyMode: filterv3.ProcessingMode_FULL_DUPLEX_STREAMED, ResponseBodyMode: filterv3.ProcessingMode_FULL_DUPLEX_STREAMED,
			}
		case arg == "request_duplex":
			req.ProtocolConfig = &extprocv3.ProtocolConfiguration{RequestBodyMode: filterv3.ProcessingMode_FULL_DUPLEX_STREAMED}
		case arg == "response_duplex":
			req.ProtocolConfig = &extprocv3.ProtocolConfiguration{ResponseBodyMode: filterv3.ProcessingMode_FULL_DUPLEX_STREAMED}
		case arg == "streamed_ahead":
			req.ProtocolConfig = &extprocv3.ProtocolConfiguration{
				RequestBodyMode: filterv3.ProcessingMode_STREAMED, SendBodyWithoutWaitingForHeaderResponse: true,
			}
		case arg == "latin1":
			latin1 = true
		case name == "source":
			attributes := map[string]*structpb.Value{"source.address": structpb.NewStringValue(value)}
			if already := req.Attributes["envoy.filters.http.ext_proc"]; already != nil {
				attributes["xds.route_name"] = already.Fields["xds.route_name"]
			}
			req.Attributes = map[string]*structpb.Struct{"envoy.filters.http.ext_proc": {Fields: attributes}}
		case name == "route":
			req.Attributes = map[string]*structpb.Struct{"envoy.filters.http.ext_proc": {Fields: map[string]*structpb.Value{
				"request.id": structpb.NewStringValue("x"), "xds.route_name": structpb.NewStringValue(value),
			}}}
		case name == "body":
			body = value
		case name == "also":
			other, err := envoyMessage(value, nil)
			if err != nil {
				return nil, err
			}
			also = other
		case pair:
			headers.Headers = append(headers.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
		default:
			return nil, fmt.Errorf("unknown flag %q", arg)
		}
	}
	httpHeaders := &extprocv3.HttpHeaders{Headers: headers, EndOfStream: eos}
	httpBody := &extprocv3.HttpBody{Body: []byte(body), EndOfStream: eos}
	trailers := &extprocv3.HttpTrailers{Trailers: headers}
	switch kind {
	case "request_headers":
		req.Request = &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: httpHeaders}
	case "response_headers":
		req.Request = &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: httpHeaders}
	case "request_body":
		req.Request = &extprocv3.ProcessingRequest_RequestBody{RequestBody: httpBody}
	case "response_body":
		req.Request = &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: httpBody}
	case "request_trailers":
		req.Request = &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: trailers}
	case "response_trailers":
		req.Request = &extprocv3.ProcessingRequest_ResponseTrailers{ResponseTrailers: trailers}
	case "empty":
	default:
		return nil, fmt.Errorf("unknown event %q", kind)
	}
	msg, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	if latin1 {
		// 1: {1: {1: "\xe9", 3: "x"}} in place of the headers.
		msg = []byte{2<<3 | 2, 10, 1<<3 | 2, 8, 1<<3 | 2, 6, 1<<3 | 2, 1, 0xe9, 3<<3 | 2, 1, 'x'}
		if kind == "response_headers" {
			msg[0] = 3<<3 | 2
		}
	}
	return append(msg, also...), nil
}

// parseResult reads "OUTCOME word…": set:n=v append:n=v remove:n path:v route:v method:v status:v context=v subject=v policy=v reason=v failure=NAME phase=NAME replace=BODY position=N holding, and for
// immediate responses http=STATUS header:n=v body=v grpc=N.
func parseResult(args []string) (*workerv1.Result, error) {
	r := &workerv1.Result{Outcome: workerv1.Result_Outcome(workerv1.Result_Outcome_value["OUTCOME_"+args[0]])}
	mutate := func(kind workerv1.Mutation_Kind, name, value string) {
		r.Mutations = append(r.Mutations, &workerv1.Mutation{Kind: kind, Name: name, Value: []byte(value)})
	}
	answer := func() *workerv1.ImmediateResponse {
		if r.Immediate == nil {
			r.Immediate = &workerv1.ImmediateResponse{}
		}
		return r.Immediate
	}
	for _, arg := range args[1:] {
		if arg == "holding" {
			r.Holding = true
			continue
		}
		i := strings.IndexAny(arg, ":=")
		if i < 0 {
			return nil, fmt.Errorf("unknown word %q", arg)
		}
		key, value := arg[:i+1], unquote(arg[i+1:])
		name, text, _ := strings.Cut(value, "=")
		switch key {
		case "set:":
			mutate(workerv1.Mutation_KIND_SET_HEADER, name, unquote(text))
		case "append:":
			mutate(workerv1.Mutation_KIND_APPEND_HEADER, name, unquote(text))
		case "remove:":
			mutate(workerv1.Mutation_KIND_REMOVE_HEADER, value, "")
		case "path:":
			mutate(workerv1.Mutation_KIND_SET_PATH, "", value)
		case "route:": // "path:", and the route is chosen anew.
			mutate(workerv1.Mutation_KIND_SET_PATH_AND_ROUTE, "", value)
		case "method:":
			mutate(workerv1.Mutation_KIND_SET_METHOD, "", value)
		case "status:":
			mutate(workerv1.Mutation_KIND_SET_STATUS, "", value)
		case "many:": // "many:N" sets N headers, "large:N" one of N bytes.
			n, _ := strconv.Atoi(value)
			for j := range n {
				mutate(workerv1.Mutation_KIND_SET_HEADER, fmt.Sprint("x-", j), "v")
			}
		case "large:":
			n, _ := strconv.Atoi(value)
			mutate(workerv1.Mutation_KIND_SET_HEADER, "x-large", strings.Repeat("v", n))
		case "context=":
			r.Context = []byte(value)
		case "subject=":
			r.Subject = value
		case "policy=":
			r.Policy = value
		case "reason=":
			r.Reason = value
		case "failure=":
			r.Failure = workerv1.Result_Failure(workerv1.Result_Failure_value["FAILURE_"+value])
		case "phase=":
			r.Phase = workerv1.Phase(workerv1.Phase_value["PHASE_"+strings.ToUpper(value)])
		case "http=":
			status, _ := strconv.Atoi(value)
			answer().Status = uint32(status)
		case "header:":
			answer().Headers = append(answer().Headers, &workerv1.Header{Name: name, Value: []byte(unquote(text))})
		case "body=":
			answer().Body = []byte(value)
		case "replace=": // The body; "stray=" is one that is not said to replace anything.
			r.Body, r.BodyReplaced = []byte(value), true
		case "stray=":
			r.Body = []byte(value)
		case "skips=": // The places of the policies in the chain, such as 0,2.
			for _, place := range strings.Split(value, ",") {
				n, _ := strconv.Atoi(place)
				r.SkipsBody |= 1 << n
			}
		case "position=":
			position, _ := strconv.Atoi(value)
			r.Position = uint32(position)
		case "grpc=":
			status, _ := strconv.Atoi(value)
			answer().GrpcStatus = proto.Uint32(uint32(status))
		default:
			return nil, fmt.Errorf("unknown word %q", arg)
		}
	}
	return r, nil
}
