package extproc

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/policy-engine/policy-engine/fastpath/headermap"
)

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
	if err := proto.Unmarshal(whole(e), answer); err != nil {
		return fmt.Sprintf("%v undecodable: %v", e.Kind, err)
	}
	w.answers = append(w.answers, answer)
	return fmt.Sprintf("%v %s", e.Kind, showAnswer(answer))
}

// whole is an effect's answer with its tail.
func whole(e Effect) []byte { return slices.Concat(e.Answer, e.Tail) }

// showAll prints an effect and what follows it at once, one a line.
func (w *world) showAll(m *Machine, e Effect) string {
	s := w.show(e)
	for e.More {
		e = m.Next(w.now)
		s += "\n> " + w.show(e)
	}
	return s
}

func showCall(e Effect) string {
	c := &e.Call.Message
	s := fmt.Sprintf("call %s chain=%d generation=%d %s timeout=%dus%s", e.Worker.Name(), c.Chain, c.Generation, phaseName(c.Phase), c.TimeoutUs, showMap(c.Headers))
	if isBody(c.Phase) {
		s += fmt.Sprintf(" body=%q", c.Body)
	}
	if isTrailers(c.Phase) {
		s += " trailers:" + showMap(c.Trailers)
	}
	for _, flag := range []struct {
		name string
		on   bool
	}{{"whole_body", c.WholeBody}, {"no_body", c.NoBody}, {"end_of_stream", c.EndOfStream}, {fmt.Sprintf("limit=%d", c.Limit), c.Limit > 0}} {
		if flag.on {
			s += " " + flag.name
		}
	}
	if len(c.RequestHeaders) > 0 {
		s += " request_headers:" + showMap(c.RequestHeaders)
	}
	if len(c.SourceAddress) > 0 {
		s += " source=" + string(c.SourceAddress)
	}
	if len(c.Context) > 0 {
		s += " context=" + strings.Trim(strconv.Quote(string(c.Context)), `"`)
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
		if c.GetClearRouteCache() {
			s.WriteString(" clear_route_cache")
		}
		if c.GetTrailers() != nil {
			s.WriteString(" UNEXPECTED")
		}
		showMutation(&s, c.GetHeaderMutation())
		if b := c.GetBodyMutation(); b != nil {
			streamed := b.GetStreamedResponse()
			if _, ok := b.Mutation.(*extprocv3.BodyMutation_Body); !ok && streamed == nil || strings.HasSuffix(name, "headers") {
				s.WriteString(" UNEXPECTED")
			}
			if streamed == nil {
				fmt.Fprintf(&s, " body=%q", b.GetBody())
				return
			}
			fmt.Fprintf(&s, " streamed=%q", streamed.GetBody())
			if streamed.GetEndOfStream() {
				s.WriteString(" end_of_stream")
			}
		}
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
		//lint:ignore SA1019 Envoy 1.36 reads no other.
		add := h.GetAppend()
		if add == nil || h.GetHeader().GetValue() != "" || h.GetAppendAction() != 0 {
			verb = "WRONG"
		} else if add.GetValue() {
			verb = "append"
		}
		fmt.Fprintf(s, " %s:%s=%s", verb, h.GetHeader().GetKey(), h.GetHeader().GetRawValue())
	}
}
