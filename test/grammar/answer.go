package grammar

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
)

// What Envoy takes of header changes in one answer (mutation_utils.cc, Utility::responseHeaderSizeCheck and its like; Http::DEFAULT_MAX_HEADERS_COUNT).
const (
	maxHeaders    = 100
	maxHeaderSize = 60 << 10
)

// metadataNamespace is the only one that the generated configuration takes.
const metadataNamespace = "policy_engine"

func headersOf(m *extprocv3.ProcessingRequest) *extprocv3.HttpHeaders {
	if h := m.GetRequestHeaders(); h != nil {
		return h
	}
	return m.GetResponseHeaders()
}

// describeRequest tells kind, size (of a body, or the number of headers), and whether nothing follows in this direction.
func describeRequest(m *extprocv3.ProcessingRequest) (kind Kind, size int, end bool) {
	switch r := m.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		return RequestHeaders, len(r.RequestHeaders.GetHeaders().GetHeaders()), r.RequestHeaders.GetEndOfStream()
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		return ResponseHeaders, len(r.ResponseHeaders.GetHeaders().GetHeaders()), r.ResponseHeaders.GetEndOfStream()
	case *extprocv3.ProcessingRequest_RequestBody:
		return RequestBody, len(r.RequestBody.GetBody()), r.RequestBody.GetEndOfStream()
	case *extprocv3.ProcessingRequest_ResponseBody:
		return ResponseBody, len(r.ResponseBody.GetBody()), r.ResponseBody.GetEndOfStream()
	case *extprocv3.ProcessingRequest_RequestTrailers:
		return RequestTrailers, len(r.RequestTrailers.GetTrailers().GetHeaders()), true
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		return ResponseTrailers, len(r.ResponseTrailers.GetTrailers().GetHeaders()), true
	}
	return 0, 0, false
}

func kindOfAnswer(m *extprocv3.ProcessingResponse) Kind {
	switch m.GetResponse().(type) {
	case *extprocv3.ProcessingResponse_RequestHeaders:
		return RequestHeaders
	case *extprocv3.ProcessingResponse_RequestBody:
		return RequestBody
	case *extprocv3.ProcessingResponse_RequestTrailers:
		return RequestTrailers
	case *extprocv3.ProcessingResponse_ResponseHeaders:
		return ResponseHeaders
	case *extprocv3.ProcessingResponse_ResponseBody:
		return ResponseBody
	case *extprocv3.ProcessingResponse_ResponseTrailers:
		return ResponseTrailers
	}
	return 0
}

func describeAnswer(m *extprocv3.ProcessingResponse, kind Kind) string {
	if i := m.GetImmediateResponse(); i != nil {
		return fmt.Sprintf("immediate_response %d", i.GetStatus().GetCode())
	}
	text := kind.String()
	mutation := mutationOf(m)
	if n := len(mutation.GetSetHeaders()) + len(mutation.GetRemoveHeaders()); n > 0 {
		text += fmt.Sprintf(" %d header changes", n)
	}
	if b := commonOf(m).GetBodyMutation(); b != nil {
		text += fmt.Sprintf(" body of %d", len(b.GetBody())+len(b.GetStreamedResponse().GetBody()))
		if b.GetStreamedResponse().GetEndOfStream() {
			text += " end_of_stream"
		}
	}
	if commonOf(m).GetStatus() != 0 {
		text += " CONTINUE_AND_REPLACE"
	}
	if o := m.GetModeOverride(); o != nil {
		text += fmt.Sprintf(" mode_override {%v}", o)
	}
	return text
}

// commonOf is what the answer to headers or a body has; nil for others.
func commonOf(m *extprocv3.ProcessingResponse) *extprocv3.CommonResponse {
	switch r := m.GetResponse().(type) {
	case *extprocv3.ProcessingResponse_RequestHeaders:
		return r.RequestHeaders.GetResponse()
	case *extprocv3.ProcessingResponse_ResponseHeaders:
		return r.ResponseHeaders.GetResponse()
	case *extprocv3.ProcessingResponse_RequestBody:
		return r.RequestBody.GetResponse()
	case *extprocv3.ProcessingResponse_ResponseBody:
		return r.ResponseBody.GetResponse()
	}
	return nil
}

func mutationOf(m *extprocv3.ProcessingResponse) *extprocv3.HeaderMutation {
	switch r := m.GetResponse().(type) {
	case *extprocv3.ProcessingResponse_RequestTrailers:
		return r.RequestTrailers.GetHeaderMutation()
	case *extprocv3.ProcessingResponse_ResponseTrailers:
		return r.ResponseTrailers.GetHeaderMutation()
	}
	return commonOf(m).GetHeaderMutation()
}

// checkContent holds what an answer changes against the mode of its direction.
func (s *Stream) checkContent(m *extprocv3.ProcessingResponse, kind Kind) {
	common, mutation := commonOf(m), mutationOf(m)
	d := s.direction(kind)
	replaces := common.GetStatus() == extprocv3.CommonResponse_CONTINUE_AND_REPLACE
	s.checkValues(mutation)
	s.checkNames(mutation, kind, replaces)
	streamed := d.mode == filterv3.ProcessingMode_STREAMED || d.mode == filterv3.ProcessingMode_FULL_DUPLEX_STREAMED
	if kind.body() && streamed && len(mutation.GetSetHeaders())+len(mutation.GetRemoveHeaders()) > 0 {
		s.wrong("header changes in the answer to a streamed %s, which Envoy drops", kind)
	}
	switch body := common.GetBodyMutation(); {
	case body != nil:
		s.checkBody(body, mutation, kind, replaces)
	case kind.body() && d.fullDuplex():
		s.wrong("an answer to a %s of full duplex without a piece of it", kind)
	}
	if kind.headers() && replaces && d.owed() {
		s.wrong("CONTINUE_AND_REPLACE in full duplex, which throws away what is on its way")
	}
	if kind.headers() && replaces {
		d.ended = true // Envoy sends no more of this direction (processor_state.cc, handleHeaderContinueAndReplace).
	}
}

func (s *Stream) checkBody(body *extprocv3.BodyMutation, mutation *extprocv3.HeaderMutation, kind Kind, replaces bool) {
	d := s.direction(kind)
	switch {
	case kind.headers() && !replaces:
		s.wrong("a body in the answer to %s, which Envoy takes with CONTINUE_AND_REPLACE only", kind)
		return
	case kind.body() && d.mode == filterv3.ProcessingMode_NONE:
		s.wrong("a change of a body that was not asked for, in the answer to %s", kind)
		return
	case (body.GetStreamedResponse() != nil) != d.fullDuplex():
		s.wrong("a body change of the wrong form for the mode %v", d.mode)
		return
	case d.fullDuplex() && kind.body():
		s.piece(kind, body.GetStreamedResponse())
		return
	}
	if whole := d.mode == filterv3.ProcessingMode_BUFFERED && kind.body(); whole && d.length && !body.GetClearBody() {
		// Of a buffered body, Envoy keeps the content-length, and refuses one that is not the body's (processor_state.cc, validateContentLength).
		set := slices.ContainsFunc(mutation.GetSetHeaders(), func(h *corev3.HeaderValueOption) bool {
			return strings.EqualFold(h.GetHeader().GetKey(), "content-length") && string(h.GetHeader().GetRawValue()) == strconv.Itoa(len(body.GetBody()))
		})
		if !set {
			s.wrong("a body of %d bytes in place of another without its content-length", len(body.GetBody()))
		}
	}
}

// checkValues finds what Envoy reads otherwise than it is written.
func (s *Stream) checkValues(mutation *extprocv3.HeaderMutation) {
	size := 0
	for _, o := range mutation.GetSetHeaders() {
		h := o.GetHeader()
		size += len(h.GetKey()) + len(h.GetRawValue())
		if h.GetValue() != "" {
			s.wrong("header %q has its value in `value`: Envoy sets it to nothing", h.GetKey())
		}
		if o.GetAppendAction() != 0 {
			s.wrong("header %q has an append_action, which Envoy ignores", h.GetKey())
		}
		if strings.ContainsAny(h.GetKey()+string(h.GetRawValue()), "\r\n\x00") {
			s.wrong("header %q has illegal characters", h.GetKey())
		}
	}
	if n := len(mutation.GetSetHeaders()); n > maxHeaders || len(mutation.GetRemoveHeaders()) > maxHeaders || size > maxHeaderSize {
		s.wrong("%d headers of %d bytes are set, and %d removed: more than Envoy takes", n, size, len(mutation.GetRemoveHeaders()))
	}
}

// checkNames finds changes that Envoy's default rules forbid.
func (s *Stream) checkNames(mutation *extprocv3.HeaderMutation, kind Kind, replaces bool) {
	for _, o := range mutation.GetSetHeaders() {
		name := strings.ToLower(o.GetHeader().GetKey())
		legal := true
		switch {
		case name == ":path":
			legal = !kind.response()
		case name == ":status":
			legal = kind.response()
		case name == ":method":
			legal = !kind.response() && replaces
		case name == "host" || strings.HasPrefix(name, ":") || strings.HasPrefix(name, "x-envoy-"):
			legal = false
		}
		if !legal {
			s.wrong("%q is set in the answer to %s", name, kind)
		}
	}
	for _, name := range mutation.GetRemoveHeaders() {
		if strings.EqualFold(name, "host") || strings.HasPrefix(name, ":") {
			s.wrong("%q is removed, which Envoy refuses", name)
		}
	}
}

func (s *Stream) checkMetadata(m *extprocv3.ProcessingResponse) {
	for namespace := range m.GetDynamicMetadata().GetFields() {
		if namespace != metadataNamespace {
			s.wrong("dynamic metadata of the namespace %q, which Envoy drops", namespace)
		}
	}
}

// override takes over what is asked for from now on. Header and trailer modes of DEFAULT change nothing, body modes always count (ext_proc.cc,
// effectiveModeOverride).
func (s *Stream) override(o *filterv3.ProcessingMode, kind Kind) {
	if o == nil {
		return
	}
	if s.directions[0].fullDuplex() || s.directions[1].fullDuplex() {
		s.wrong("mode_override in full duplex, which Envoy ignores, or which takes the mode from what is on its way")
		return
	}
	if !kind.headers() {
		s.wrong("mode_override in the answer to %s, which Envoy ignores", kind)
		return
	}
	for i, mode := range []filterv3.ProcessingMode_BodySendMode{o.GetRequestBodyMode(), o.GetResponseBodyMode()} {
		d := &s.directions[i]
		d.mode = mode
	}
	change := func(to *bool, mode filterv3.ProcessingMode_HeaderSendMode) {
		if mode != filterv3.ProcessingMode_DEFAULT {
			*to = mode == filterv3.ProcessingMode_SEND
		}
	}
	change(&s.responses, o.GetResponseHeaderMode())
	change(&s.directions[0].trailers, o.GetRequestTrailerMode())
	change(&s.directions[1].trailers, o.GetResponseTrailerMode())
}
