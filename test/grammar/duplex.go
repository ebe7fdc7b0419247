package grammar

import (
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
)

// duplex are the rules of FULL_DUPLEX_STREAMED. Envoy sends the body as it comes and keeps nothing of it; the server gives it back in pieces of its own choice, as late as it likes,
// in the order headers, body, trailers. What is not given back is lost (processor_state.cc, handleDuplexStreamedBodyResponse).
type duplex struct {
	// headersEnd: there is nothing but headers. bodyEnd: a body message has ended the stream.
	headersEnd, bodyEnd bool
	// given: the end was given back, by a piece that says so, or with the trailers.
	given bool
}

func (d *direction) fullDuplex() bool {
	return d.mode == filterv3.ProcessingMode_FULL_DUPLEX_STREAMED
}

// owed reports whether something of the direction has still to be given back.
func (d *direction) owed() bool { return d.fullDuplex() && !d.duplex.given && !d.duplex.headersEnd }

// piece judges an answer that gives a piece of a body back.
func (s *Stream) piece(kind Kind, streamed *extprocv3.StreamedBodyResponse) {
	d := s.direction(kind)
	switch end := streamed.GetEndOfStream(); {
	case len(d.pending) > 0 && d.pending[0].kind.headers():
		s.wrong("a piece of the %s before its headers were answered", kind)
	case d.bodies == 0:
		s.wrong("an answer of the wrong kind, %s, for which no message came", kind)
	case d.duplex.given:
		s.wrong("a piece of the %s after its end was given back", kind)
	case end && !d.duplex.bodyEnd:
		s.wrong("end_of_stream in a piece of the %s, which has not ended, or goes on with trailers", kind)
	case end:
		d.duplex.given = true
	}
}
