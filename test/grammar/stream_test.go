package grammar

import (
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// player plays one conversation; its clock stands still unless a step waits.
type player struct {
	stream Stream
	now    time.Time
}

type step func(*player)

// ask is a message of Envoy's. end: nothing follows in its direction.
func ask(kind Kind, end bool) step {
	m := &extprocv3.ProcessingRequest{}
	headers := &extprocv3.HttpHeaders{EndOfStream: end, Headers: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "content-length", RawValue: []byte("5")}}}}
	body := &extprocv3.HttpBody{Body: []byte("hello"), EndOfStream: end}
	switch kind {
	case RequestHeaders:
		m.Request = &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: headers}
	case ResponseHeaders:
		m.Request = &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: headers}
	case RequestBody:
		m.Request = &extprocv3.ProcessingRequest_RequestBody{RequestBody: body}
	case ResponseBody:
		m.Request = &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: body}
	case RequestTrailers:
		m.Request = &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{}}
	case ResponseTrailers:
		m.Request = &extprocv3.ProcessingRequest_ResponseTrailers{ResponseTrailers: &extprocv3.HttpTrailers{}}
	}
	return func(p *player) { p.stream.Request(m, p.now) }
}

// askDuplex is the request's headers in full duplex.
func askDuplex(p *player) {
	p.stream.Request(&extprocv3.ProcessingRequest{
		Request:        &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{}},
		ProtocolConfig: &extprocv3.ProtocolConfiguration{RequestBodyMode: filterv3.ProcessingMode_FULL_DUPLEX_STREAMED},
	}, p.now)
}

// give is an answer of the server's, with changes.
func give(kind Kind, changes ...func(*extprocv3.ProcessingResponse, *extprocv3.CommonResponse)) step {
	m, common := &extprocv3.ProcessingResponse{}, &extprocv3.CommonResponse{}
	switch kind {
	case RequestHeaders:
		m.Response = &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: common}}
	case ResponseHeaders:
		m.Response = &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{Response: common}}
	case RequestBody:
		m.Response = &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{Response: common}}
	case ResponseBody:
		m.Response = &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: &extprocv3.BodyResponse{Response: common}}
	case RequestTrailers:
		m.Response = &extprocv3.ProcessingResponse_RequestTrailers{RequestTrailers: &extprocv3.TrailersResponse{}}
	case ResponseTrailers:
		m.Response = &extprocv3.ProcessingResponse_ResponseTrailers{ResponseTrailers: &extprocv3.TrailersResponse{}}
	}
	for _, change := range changes {
		change(m, common)
	}
	return func(p *player) { p.stream.Answer(m, p.now) }
}

type change = func(*extprocv3.ProcessingResponse, *extprocv3.CommonResponse)

func override(mode *filterv3.ProcessingMode) change {
	return func(m *extprocv3.ProcessingResponse, _ *extprocv3.CommonResponse) { m.ModeOverride = mode }
}

func replacing(text string) change {
	return func(_ *extprocv3.ProcessingResponse, c *extprocv3.CommonResponse) {
		c.BodyMutation = &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_Body{Body: []byte(text)}}
	}
}

func inPieces(_ *extprocv3.ProcessingResponse, c *extprocv3.CommonResponse) {
	c.BodyMutation = &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_StreamedResponse{StreamedResponse: &extprocv3.StreamedBodyResponse{}}}
}

func lastPiece(_ *extprocv3.ProcessingResponse, c *extprocv3.CommonResponse) {
	c.BodyMutation = &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_StreamedResponse{StreamedResponse: &extprocv3.StreamedBodyResponse{EndOfStream: true}}}
}

func andReplace(_ *extprocv3.ProcessingResponse, c *extprocv3.CommonResponse) {
	c.Status = extprocv3.CommonResponse_CONTINUE_AND_REPLACE
}

func setting(name, value string) change {
	return func(_ *extprocv3.ProcessingResponse, c *extprocv3.CommonResponse) {
		option := &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, RawValue: []byte(value)}}
		if c.HeaderMutation == nil {
			c.HeaderMutation = &extprocv3.HeaderMutation{}
		}
		c.HeaderMutation.SetHeaders = append(c.HeaderMutation.SetHeaders, option)
	}
}

func removing(name string) change {
	return func(_ *extprocv3.ProcessingResponse, c *extprocv3.CommonResponse) {
		c.HeaderMutation = &extprocv3.HeaderMutation{RemoveHeaders: []string{name}}
	}
}

// first changes the first header that is set.
func first(edit func(*corev3.HeaderValueOption)) change {
	return func(_ *extprocv3.ProcessingResponse, c *extprocv3.CommonResponse) {
		edit(c.HeaderMutation.SetHeaders[0])
	}
}

func immediate(status typev3.StatusCode) step {
	m := &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{Status: &typev3.HttpStatus{Code: status}}}}
	return func(p *player) { p.stream.Answer(m, p.now) }
}

func answer(m *extprocv3.ProcessingResponse) step {
	return func(p *player) { p.stream.Answer(m, p.now) }
}
func wait(d time.Duration) step   { return func(p *player) { p.now = p.now.Add(d) } }
func closed(code codes.Code) step { return func(p *player) { p.stream.ServerEnds(code, p.now) } }
func reset(p *player)             { p.stream.ServerResets() }
func envoyEnds(p *player)         { p.stream.EnvoyEnds(p.now) }
func look(p *player)              { p.stream.Check(p.now) }

var (
	wantResponse  = override(&filterv3.ProcessingMode{ResponseHeaderMode: filterv3.ProcessingMode_SEND})
	wantBody      = override(&filterv3.ProcessingMode{RequestBodyMode: filterv3.ProcessingMode_BUFFERED, RequestTrailerMode: filterv3.ProcessingMode_SEND})
	wantChunks    = override(&filterv3.ProcessingMode{RequestBodyMode: filterv3.ProcessingMode_STREAMED, RequestTrailerMode: filterv3.ProcessingMode_SEND})
	wantBodyBack  = override(&filterv3.ProcessingMode{ResponseHeaderMode: filterv3.ProcessingMode_SEND, ResponseBodyMode: filterv3.ProcessingMode_BUFFERED, ResponseTrailerMode: filterv3.ProcessingMode_SEND})
	noMore        = override(&filterv3.ProcessingMode{ResponseTrailerMode: filterv3.ProcessingMode_SKIP})
	toHeaders     = ask(RequestHeaders, false)
	passed        = give(RequestHeaders)
	withBody      = give(RequestHeaders, wantBody)
	inChunks      = give(RequestHeaders, wantChunks)
	timeoutOfTest = time.Second
)

func conversation(steps ...step) []step { return steps }

func TestLegal(t *testing.T) {
	for name, steps := range map[string][]step{
		"a request":                             conversation(toHeaders, passed, closed(codes.OK), envoyEnds),
		"denied":                                conversation(toHeaders, immediate(403), closed(codes.OK)),
		"an error in place of an answer":        conversation(toHeaders, closed(codes.Unavailable)),
		"a reset in place of an answer":         conversation(toHeaders, reset),
		"Envoy goes away before the answer":     conversation(toHeaders, wait(timeoutOfTest/2), envoyEnds),
		"both header phases":                    conversation(toHeaders, give(RequestHeaders, wantResponse), ask(ResponseHeaders, false), give(ResponseHeaders), closed(codes.OK)),
		"Envoy ends before a wanted phase":      conversation(toHeaders, give(RequestHeaders, wantResponse), envoyEnds),
		"an error before a wanted phase":        conversation(toHeaders, give(RequestHeaders, wantResponse), closed(codes.Unavailable)),
		"changes of all kinds":                  conversation(toHeaders, give(RequestHeaders, setting("x-a", "\xff"), setting(":path", "/"))),
		"the method, with CONTINUE_AND_REPLACE": conversation(toHeaders, give(RequestHeaders, andReplace, setting(":method", "PUT")), closed(codes.OK)),
		"a body with CONTINUE_AND_REPLACE":      conversation(toHeaders, give(RequestHeaders, wantBody, andReplace, replacing("x")), closed(codes.OK)),
		"a whole body":                          conversation(toHeaders, withBody, ask(RequestBody, true), give(RequestBody), closed(codes.OK)),
		"a whole body, replaced":                conversation(toHeaders, withBody, ask(RequestBody, true), give(RequestBody, replacing("longer than it was"), setting("content-length", "18")), closed(codes.OK)),
		"a whole body and trailers":             conversation(toHeaders, withBody, ask(RequestBody, false), give(RequestBody), ask(RequestTrailers, true), give(RequestTrailers), closed(codes.OK)),
		"no body":                               conversation(ask(RequestHeaders, true), withBody, closed(codes.OK)),
		"trailers without a body":               conversation(toHeaders, withBody, ask(RequestTrailers, true), give(RequestTrailers), closed(codes.OK)),
		"chunks, one behind the other":          conversation(toHeaders, inChunks, ask(RequestBody, false), ask(RequestBody, true), give(RequestBody, replacing("")), give(RequestBody), closed(codes.OK)),
		"a denial while two chunks wait":        conversation(toHeaders, inChunks, ask(RequestBody, false), ask(RequestBody, true), immediate(403), closed(codes.OK)),
		"the response before the request's end": conversation(toHeaders, give(RequestHeaders, wantChunks, wantResponse, wantBoth), ask(RequestBody, false), ask(ResponseHeaders, true), give(ResponseHeaders), give(RequestBody), ask(RequestBody, true), give(RequestBody), closed(codes.OK)),
		"more time":                             conversation(toHeaders, answer(&extprocv3.ProcessingResponse{OverrideMessageTimeout: durationpb.New(time.Second)}), passed, closed(codes.OK)),
		"in time":                               conversation(toHeaders, wait(timeoutOfTest-1), look, passed, closed(codes.OK)),
		"full duplex has no timeout": conversation(askDuplex, passed, ask(RequestBody, false), wait(time.Hour), look, give(RequestBody, inPieces), ask(RequestBody, true), give(RequestBody, lastPiece),
			closed(codes.OK)),
		"full duplex, all at the end": conversation(askDuplex, ask(RequestBody, false), wait(time.Hour), ask(RequestBody, false), ask(RequestTrailers, true), passed, give(RequestBody, inPieces),
			give(RequestBody, inPieces), give(RequestTrailers), closed(codes.OK)),
		"full duplex, the last chunk comes twice":   conversation(askDuplex, passed, ask(RequestBody, true), ask(RequestBody, true), give(RequestBody, lastPiece), closed(codes.OK)),
		"full duplex, trailers only":                conversation(askDuplex, passed, ask(RequestTrailers, true), give(RequestTrailers), closed(codes.OK)),
		"full duplex, denied with what is withheld": conversation(askDuplex, ask(RequestBody, false), immediate(403), closed(codes.OK)),
		"full duplex, denied between two chunks":    conversation(askDuplex, passed, ask(RequestBody, false), give(RequestBody, inPieces), ask(RequestBody, false), immediate(403), closed(codes.OK)),
		"a body that is not wanted any more":        conversation(toHeaders, give(RequestHeaders, wantBodyBack), ask(ResponseHeaders, false), give(ResponseHeaders, noMore), closed(codes.OK)),
		"what comes after the end":                  conversation(toHeaders, immediate(403), closed(codes.OK), ask(RequestBody, true), envoyEnds),
	} {
		t.Run(name, func(t *testing.T) {
			if p := play(steps); len(p.stream.Violations()) > 0 {
				t.Errorf("%q\n%s", p.stream.Violations(), p.stream.Transcript())
			}
		})
	}
}

// wantBoth asks for chunks of the request and headers of the response.
var wantBoth = override(&filterv3.ProcessingMode{RequestBodyMode: filterv3.ProcessingMode_STREAMED, ResponseHeaderMode: filterv3.ProcessingMode_SEND})

func play(steps []step) *player {
	p := &player{stream: Stream{Timeout: timeoutOfTest}, now: time.Unix(1, 0)}
	for _, s := range steps {
		s(p)
	}
	return p
}

func TestIllegal(t *testing.T) {
	bodies := conversation(toHeaders, withBody, ask(RequestBody, true))
	chunks := conversation(toHeaders, inChunks, ask(RequestBody, true))
	after := func(before []step, more ...step) []step { return append(before[:len(before):len(before)], more...) }
	namespace, err := structpb.NewStruct(map[string]any{"other": map[string]any{}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		want  string
		steps []step
	}{
		"closed before the answer":          {"before request_headers was answered", conversation(toHeaders, closed(codes.OK))},
		"closed before the first message":   {"before the first message", conversation(closed(codes.OK))},
		"closed before the response":        {"before the response_headers", conversation(toHeaders, give(RequestHeaders, wantResponse), closed(codes.OK))},
		"closed before the body":            {"before the request's body", conversation(toHeaders, withBody, closed(codes.OK))},
		"closed before the last chunk":      {"before the request's body", conversation(toHeaders, inChunks, ask(RequestBody, false), give(RequestBody), closed(codes.OK))},
		"closed before the body's answer":   {"before request_body was answered", after(bodies, closed(codes.OK))},
		"closed before the trailers":        {"before the request's trailers", conversation(toHeaders, withBody, ask(RequestBody, false), give(RequestBody), closed(codes.OK))},
		"DEFAULT takes nothing back":        {"before the response's trailers", conversation(toHeaders, give(RequestHeaders, wantBodyBack), ask(ResponseHeaders, false), give(ResponseHeaders, wantResponse), closed(codes.OK))},
		"closed before the response's body": {"before the response's body", conversation(toHeaders, give(RequestHeaders, wantBodyBack), ask(ResponseHeaders, false), give(ResponseHeaders), closed(codes.OK))},
		"no answer":                         {"had no answer within", conversation(toHeaders, wait(timeoutOfTest*19/20), envoyEnds)},
		"no answer so far":                  {"had no answer within", conversation(toHeaders, wait(timeoutOfTest), look)},
		"no answer to the second chunk":     {"request_body had no answer within", conversation(toHeaders, inChunks, ask(RequestBody, false), ask(RequestBody, true), give(RequestBody), wait(timeoutOfTest), envoyEnds)},
		"an answer that is late":            {"had no answer within", conversation(toHeaders, wait(timeoutOfTest), passed)},
		"a denial that is late":             {"had no answer within", conversation(toHeaders, wait(timeoutOfTest), immediate(403))},
		"answered twice":                    {"request_headers is answered twice", conversation(toHeaders, passed, passed)},
		"answered again after the next":     {"is answered with the wrong kind", conversation(toHeaders, withBody, ask(RequestBody, true), passed)},
		"the wrong kind":                    {"request_headers is answered with the wrong kind, request_body", conversation(toHeaders, give(RequestBody))},
		"the other direction":               {"of the wrong kind, response_headers", conversation(toHeaders, give(ResponseHeaders))},
		"an answer to nothing":              {"for which no message came", conversation(toHeaders, passed, give(ResponseHeaders))},
		"a denial of nothing":               {"no message waits", conversation(toHeaders, passed, immediate(403))},
		"an answer after a denial":          {"after an immediate response", conversation(toHeaders, immediate(403), passed)},
		"two denials":                       {"after an immediate response", conversation(toHeaders, immediate(403), immediate(403))},
		"an answer after the end":           {"after the end", conversation(toHeaders, passed, closed(codes.OK), passed)},
		"an answer without content":         {"without content", conversation(toHeaders, answer(&extprocv3.ProcessingResponse{}))},
		"a status of nothing":               {"status 0", conversation(toHeaders, immediate(0))},
		"a status below 200":                {"status 199", conversation(toHeaders, immediate(199))},
		"a status above 599":                {"status 600", conversation(toHeaders, immediate(600))},
		"a timeout with more": {"override_message_timeout together", conversation(toHeaders, give(RequestHeaders, func(m *extprocv3.ProcessingResponse, _ *extprocv3.CommonResponse) {
			m.OverrideMessageTimeout = durationpb.New(1)
		}))},
		"an override in a body's answer":           {"mode_override in the answer to request_body", after(bodies, give(RequestBody, wantBody))},
		"an override in full duplex":               {"mode_override in full duplex", conversation(askDuplex, withBody)},
		"a body in a header answer":                {"with CONTINUE_AND_REPLACE only", conversation(toHeaders, give(RequestHeaders, replacing("x")))},
		"a body nobody asked for":                  {"not asked for", conversation(toHeaders, passed, ask(RequestBody, true), give(RequestBody, replacing("x")))},
		"pieces in place of a whole body":          {"wrong form", after(bodies, give(RequestBody, inPieces))},
		"pieces in place of a chunk":               {"wrong form", after(chunks, give(RequestBody, inPieces))},
		"full duplex, closed before the end":       {"before the request's body", conversation(askDuplex, passed, ask(RequestBody, false), give(RequestBody, inPieces), closed(codes.OK))},
		"full duplex, the end is not given":        {"before the request's body", conversation(askDuplex, passed, ask(RequestBody, true), give(RequestBody, inPieces), closed(codes.OK))},
		"full duplex, closed before any body":      {"before the request's body", conversation(askDuplex, passed, closed(codes.OK))},
		"full duplex, two ends":                    {"after its end", conversation(askDuplex, passed, ask(RequestBody, true), give(RequestBody, lastPiece), give(RequestBody, lastPiece))},
		"full duplex, a piece after the trailers":  {"after its end", conversation(askDuplex, passed, ask(RequestBody, false), ask(RequestTrailers, true), give(RequestTrailers), give(RequestBody, inPieces))},
		"full duplex, an end before trailers":      {"which has not ended", conversation(askDuplex, passed, ask(RequestBody, false), ask(RequestTrailers, true), give(RequestBody, lastPiece))},
		"full duplex, a piece before the headers":  {"before its headers", conversation(askDuplex, ask(RequestBody, false), give(RequestBody, inPieces))},
		"full duplex, a piece of nothing":          {"for which no message came", conversation(askDuplex, passed, give(RequestBody, inPieces))},
		"full duplex, an answer without a piece":   {"without a piece", conversation(askDuplex, passed, ask(RequestBody, true), give(RequestBody))},
		"full duplex, CONTINUE_AND_REPLACE":        {"CONTINUE_AND_REPLACE in full duplex", conversation(askDuplex, give(RequestHeaders, andReplace, setting(":method", "PUT")))},
		"full duplex, trailers before the headers": {"the wrong kind, request_trailers", conversation(askDuplex, ask(RequestTrailers, true), give(RequestTrailers))},
		"a body in full duplex":                    {"wrong form", conversation(askDuplex, passed, ask(RequestBody, true), give(RequestBody, replacing("x")))},
		"a body without its length":                {"without its content-length", after(bodies, give(RequestBody, replacing("longer than it was")))},
		"a body with another length":               {"without its content-length", after(bodies, give(RequestBody, replacing("longer than it was"), setting("content-length", "5")))},
		"headers with a chunk":                     {"header changes in the answer to a streamed", after(chunks, give(RequestBody, setting("x-a", "1")))},
		"value in place of raw_value":              {"in `value`", conversation(toHeaders, give(RequestHeaders, setting("x-a", ""), first(func(o *corev3.HeaderValueOption) { o.Header.Value = "1" })))},
		"append_action":                            {"append_action", conversation(toHeaders, give(RequestHeaders, setting("x-a", "1"), first(func(o *corev3.HeaderValueOption) { o.AppendAction = corev3.HeaderValueOption_ADD_IF_ABSENT })))},
		"a line break":                             {"illegal characters", conversation(toHeaders, give(RequestHeaders, setting("x-a", "1\r\nx-b: 2")))},
		"host":                                     {`"host" is set`, conversation(toHeaders, give(RequestHeaders, setting("Host", "x")))},
		"authority":                                {`":authority" is set`, conversation(toHeaders, give(RequestHeaders, setting(":authority", "x")))},
		"scheme":                                   {`":scheme" is set`, conversation(toHeaders, give(RequestHeaders, setting(":scheme", "https")))},
		"method without CONTINUE_AND_REPLACE":      {`":method" is set`, conversation(toHeaders, give(RequestHeaders, setting(":method", "PUT")))},
		"a header of Envoy's":                      {`"x-envoy-a" is set`, conversation(toHeaders, give(RequestHeaders, setting("x-envoy-a", "1")))},
		"status in the request":                    {`":status" is set`, conversation(toHeaders, give(RequestHeaders, setting(":status", "200")))},
		"path in the response":                     {`":path" is set`, conversation(toHeaders, give(RequestHeaders, wantResponse), ask(ResponseHeaders, true), give(ResponseHeaders, setting(":path", "/")))},
		"host removed":                             {`"host" is removed`, conversation(toHeaders, give(RequestHeaders, removing("host")))},
		"a pseudo-header removed":                  {`":path" is removed`, conversation(toHeaders, give(RequestHeaders, removing(":path")))},
		"dynamic metadata that Envoy drops":        {`namespace "other"`, conversation(toHeaders, give(RequestHeaders, func(m *extprocv3.ProcessingResponse, _ *extprocv3.CommonResponse) { m.DynamicMetadata = namespace }))},
		"more headers than Envoy takes":            {"more than Envoy takes", conversation(toHeaders, give(RequestHeaders, many(101)))},
		"the first chunk answered, not second":     {"before request_body was answered", conversation(toHeaders, inChunks, ask(RequestBody, false), ask(RequestBody, true), give(RequestBody), closed(codes.OK))},
	} {
		t.Run(name, func(t *testing.T) {
			p := play(tt.steps)
			if got := strings.Join(p.stream.Violations(), "; "); !strings.Contains(got, tt.want) {
				t.Errorf("violations %q, want %q\n%s", got, tt.want, p.stream.Transcript())
			}
		})
	}
}

func many(n int) change {
	return func(_ *extprocv3.ProcessingResponse, c *extprocv3.CommonResponse) {
		for range n {
			setting("x-a", "1")(nil, c)
		}
	}
}
