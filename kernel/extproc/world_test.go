package extproc

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// worker is an evaluator that only tells its name and health: the test delivers the outcomes.
type worker struct {
	name      string
	down      bool
	policies  []string
	undiscovd bool
}

func (w *worker) Name() string         { return w.name }
func (w *worker) Available() bool      { return !w.down }
func (w *worker) Evaluate(*route.Call) { panic("the machine does no I/O") }

// world is what surrounds a machine: settings, routes, an observer, a clock.
type world struct {
	kernel    config.Kernel
	workers   []*worker
	noTable   bool
	store     *route.Store
	retired   int
	now       Instant
	call      *route.Call
	decisions []string
	seen      []Decision
	closed    bool
	kinds     []Kind
	answers   []*extprocv3.ProcessingResponse
}

func newWorld() *world {
	return &world{kernel: config.Kernel{UnknownRoute: config.UnknownRouteDeny}}
}

func (w *world) setUp(line []string) error {
	switch line[0] {
	case "worker":
		wk := &worker{name: line[1]}
		for _, p := range line[2:] {
			switch p {
			case "down":
				wk.down = true
			case "undiscovered":
				wk.undiscovd = true
			default:
				wk.policies = append(wk.policies, p)
			}
		}
		w.workers = append(w.workers, wk)
		w.kernel.Workers = append(w.kernel.Workers, config.WorkerRef{Name: wk.name})
	case "route":
		r := config.Route{Name: line[1]}
		flow := &r.Request
		for _, p := range line[2:] {
			switch p {
			case "request":
				flow = &r.Request
			case "response":
				flow = &r.Response
			default:
				name, onFailure, _ := strings.Cut(p, ":")
				flow.Chain = append(flow.Chain, config.Policy{Name: name, OnFailure: config.OnFailure(onFailure)})
			}
		}
		w.kernel.Routes = append(w.kernel.Routes, r)
	case "unknown_route":
		w.kernel.UnknownRoute = config.UnknownRoute(line[1])
	case "no_table":
		w.noTable = true
	default:
		return fmt.Errorf("unknown set-up %q", line[0])
	}
	return nil
}

func (w *world) settings(t testing.TB) *Settings {
	w.store = route.NewStore(func(uint64) { w.retired++ })
	if !w.noTable {
		var offers []route.Offer
		for _, wk := range w.workers {
			o := route.Offer{Worker: wk, Timeout: 500 * time.Millisecond, Discovered: !wk.undiscovd}
			for _, p := range wk.policies {
				o.Policies = append(o.Policies, &workerv1.PolicyDescriptor{Name: p, Phases: []workerv1.Phase{requestHeaders, responseHeaders}})
			}
			offers = append(offers, o)
		}
		table, _, err := route.Compile(7, &w.kernel, offers)
		if err != nil {
			t.Fatal(err)
		}
		w.store.Swap(table)
	}
	jsonType := config.Header{Name: "content-type", Value: "application/json"}
	return &Settings{
		Routes: w.store, UnknownRoute: w.kernel.UnknownRoute, Observer: w,
		PolicyNotSupported: config.ImmediateResponse{Status: 500, Headers: []config.Header{jsonType}, Body: []byte(`{"code":"POLICY_NOT_SUPPORTED"}`)},
		WorkerUnavailable: config.ImmediateResponse{
			Status: 503, Headers: []config.Header{{Name: "retry-after", Value: "30"}, jsonType}, Body: []byte(`{"code":"WORKER_UNAVAILABLE"}`),
		},
	}
}

// checkReleased replaces the table: nobody must hold it any more.
func (w *world) checkReleased(t interface{ Errorf(string, ...any) }) {
	if w.store == nil || w.noTable {
		return
	}
	next, _, err := route.Compile(8, &config.Kernel{}, nil)
	if err != nil {
		t.Errorf("%v", err)
		return
	}
	w.store.Swap(next)
	if w.retired != 1 {
		t.Errorf("the table was retired %d times after the last stream was closed", w.retired)
	}
}

// Decided implements Observer.
func (w *world) Decided(d *Decision) {
	s := fmt.Sprintf("%v %v route=%s", d.Status, phaseName(d.Phase), d.RouteName)
	if d.Route == nil {
		s += "(unknown)"
	}
	if d.Worker != nil {
		s += " worker=" + d.Worker.Worker.Name()
	}
	for _, kv := range [][2]string{{"policy", d.Policy}, {"reason", d.Reason}, {"id", string(d.RequestID)}} {
		if kv[1] != "" {
			s += " " + kv[0] + "=" + kv[1]
		}
	}
	if d.Tolerated != StatusNone {
		s += " tolerated=" + d.Tolerated.String()
	}
	w.decisions = append(w.decisions, fmt.Sprintf("%s %v", s, d.Elapsed))
	w.seen = append(w.seen, *d)
}

func phaseName(p workerv1.Phase) string {
	return strings.ToLower(strings.TrimPrefix(p.String(), "PHASE_"))
}

// envoyMessage makes a ProcessingRequest of Envoy's own types. Words: end_of_stream, observability, full_duplex, streamed_ahead, route=NAME (as an attribute),
// also=KIND (a second member of the oneof), latin1 (a header name that is not UTF-8); all others are name=value headers, or body=TEXT.
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
			req.ProtocolConfig = &extprocv3.ProtocolConfiguration{ResponseBodyMode: filterv3.ProcessingMode_FULL_DUPLEX_STREAMED}
		case arg == "streamed_ahead":
			req.ProtocolConfig = &extprocv3.ProtocolConfiguration{
				RequestBodyMode: filterv3.ProcessingMode_STREAMED, SendBodyWithoutWaitingForHeaderResponse: true,
			}
		case arg == "latin1":
			latin1 = true
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

// parseResult reads "OUTCOME word…": set:n=v append:n=v remove:n path:v method:v status:v context=v subject=v policy=v reason=v failure=NAME phase=NAME, and for
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
		case "grpc=":
			status, _ := strconv.Atoi(value)
			answer().GrpcStatus = proto.Uint32(uint32(status))
		default:
			return nil, fmt.Errorf("unknown word %q", arg)
		}
	}
	return r, nil
}

// show prints an effect, and keeps what the next events need.
func (w *world) show(e Effect) string {
	w.kinds = append(w.kinds, e.Kind)
	switch e.Kind {
	case KindWait:
		return "wait"
	case KindFail:
		return fmt.Sprintf("fail %v: %s", e.Code, e.Message)
	case KindCall:
		w.call = e.Call
		return showCall(e)
	}
	answer := new(extprocv3.ProcessingResponse)
	if err := proto.Unmarshal(e.Answer, answer); err != nil {
		return fmt.Sprintf("%v undecodable: %v", e.Kind, err)
	}
	w.answers = append(w.answers, answer)
	return fmt.Sprintf("%v %s", e.Kind, showAnswer(answer))
}

func showCall(e Effect) string {
	c := &e.Call.Message
	s := fmt.Sprintf("call %s chain=%d generation=%d %s timeout=%dus%s", e.Worker.Name(), c.Chain, c.Generation, phaseName(c.Phase), c.TimeoutUs, showMap(c.Headers))
	if c.EndOfStream {
		s += " end_of_stream"
	}
	if len(c.RequestHeaders) > 0 {
		s += " request_headers:" + showMap(c.RequestHeaders)
	}
	if len(c.Context) > 0 {
		s += fmt.Sprintf(" context=%s", c.Context)
	}
	if c.WantContext {
		s += " want_context"
	}
	return s
}

func showMap(encoded []byte) string {
	fields, err := headermap.Parse(nil, encoded)
	if err != nil {
		return err.Error()
	}
	var s strings.Builder
	for _, f := range fields {
		fmt.Fprintf(&s, " %s=%s", f.Name, f.Value)
	}
	return s.String()
}

// showAnswer prints Envoy's view of an answer.
func showAnswer(r *extprocv3.ProcessingResponse) string {
	var s strings.Builder
	common := func(name string, c *extprocv3.CommonResponse) {
		s.WriteString(name)
		if c.GetStatus() != extprocv3.CommonResponse_CONTINUE {
			fmt.Fprintf(&s, " %v", c.GetStatus())
		}
		if c.GetBodyMutation() != nil || c.GetClearRouteCache() || c.GetTrailers() != nil {
			s.WriteString(" UNEXPECTED")
		}
		showMutation(&s, c.GetHeaderMutation())
	}
	switch a := r.Response.(type) {
	case *extprocv3.ProcessingResponse_RequestHeaders:
		common("request_headers", a.RequestHeaders.GetResponse())
	case *extprocv3.ProcessingResponse_ResponseHeaders:
		common("response_headers", a.ResponseHeaders.GetResponse())
	case *extprocv3.ProcessingResponse_RequestBody:
		common("request_body", a.RequestBody.GetResponse())
	case *extprocv3.ProcessingResponse_ResponseBody:
		common("response_body", a.ResponseBody.GetResponse())
	case *extprocv3.ProcessingResponse_RequestTrailers:
		s.WriteString("request_trailers")
		showMutation(&s, a.RequestTrailers.GetHeaderMutation())
	case *extprocv3.ProcessingResponse_ResponseTrailers:
		s.WriteString("response_trailers")
		showMutation(&s, a.ResponseTrailers.GetHeaderMutation())
	case *extprocv3.ProcessingResponse_ImmediateResponse:
		i := a.ImmediateResponse
		fmt.Fprintf(&s, "immediate %d", i.GetStatus().GetCode())
		showMutation(&s, i.GetHeaders())
		fmt.Fprintf(&s, " body=%s details=%s", i.GetBody(), i.GetDetails())
		if i.GetGrpcStatus() != nil {
			fmt.Fprintf(&s, " grpc=%d", i.GetGrpcStatus().GetStatus())
		}
	default:
		s.WriteString("NOTHING")
	}
	if r.DynamicMetadata != nil {
		fmt.Fprintf(&s, " metadata=%s", jsonOf(r.DynamicMetadata))
	}
	if r.ModeOverride != nil {
		fmt.Fprintf(&s, " mode_override=%s", jsonOf(r.ModeOverride))
	}
	return s.String()
}

// jsonOf prints without the random spaces of protojson.
func jsonOf(m proto.Message) string {
	b, err := protojson.Marshal(m)
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(b), " ", "")
}

func showMutation(s *strings.Builder, m *extprocv3.HeaderMutation) {
	for _, h := range m.GetRemoveHeaders() {
		fmt.Fprintf(s, " remove:%s", h)
	}
	for _, h := range m.GetSetHeaders() {
		verb := "set"
		//nolint:staticcheck // Envoy 1.36 reads `append`.
		if h.GetAppend() == nil || h.GetHeader().GetValue() != "" || h.GetAppendAction() != 0 {
			verb = "WRONG"
		} else if h.GetAppend().GetValue() {
			verb = "append"
		}
		fmt.Fprintf(s, " %s:%s=%s", verb, h.GetHeader().GetKey(), h.GetHeader().GetRawValue())
	}
}
