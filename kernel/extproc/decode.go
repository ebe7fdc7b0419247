package extproc

import (
	"errors"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	extprocv1 "github.com/policy-engine/policy-engine/api/extproc/v1"
	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// The phases, by the names that Envoy's messages have.
const (
	requestHeaders   = workerv1.Phase_PHASE_REQUEST_HEADERS
	requestBody      = workerv1.Phase_PHASE_REQUEST_BODY
	requestTrailers  = workerv1.Phase_PHASE_REQUEST_TRAILERS
	responseHeaders  = workerv1.Phase_PHASE_RESPONSE_HEADERS
	responseBody     = workerv1.Phase_PHASE_RESPONSE_BODY
	responseTrailers = workerv1.Phase_PHASE_RESPONSE_TRAILERS
)

// phaseOfField gives the phase of the fields 2 to 7 of a ProcessingRequest.
var phaseOfField = [...]workerv1.Phase{
	2: requestHeaders, 3: responseHeaders, 4: requestBody, 5: responseBody, 6: requestTrailers, 7: responseTrailers,
}

var (
	errNoMessage   = errors.New("none of the fields 2 to 7 is set")
	errTwoMessages = errors.New("more than one of the fields 2 to 7 is set")
	errTwoContents = errors.New("more than one header map or body in one phase")
	errTruncated   = errors.New("not a protobuf message")
	errAttributes  = errors.New("the attributes are malformed, or one is given twice")
)

// decoder holds one decoded ProcessingRequest. Its parts are reused, so that decoding does not allocate.
type decoder struct {
	message  extprocv1.ProcessingRequest
	headers  extprocv1.HttpHeaders
	body     extprocv1.HttpBody
	trailers extprocv1.HttpTrailers
	protocol extprocv1.ProtocolConfiguration
}

func (d *decoder) reset() {
	d.message.ResetVT()
	d.headers.Reset()
	d.body.Reset()
	d.trailers.Reset()
	d.protocol.Reset()
}

// decode decodes msg, which the decoded message aliases until reset, and returns which phase it is of. Between two decodes there is a reset.
func (d *decoder) decode(msg []byte) (workerv1.Phase, error) {
	phase, err := phaseOf(msg)
	if err != nil {
		return 0, err
	}
	// The decoder fills in messages that are there already, instead of making them.
	d.message.ProtocolConfig = &d.protocol
	switch phase {
	case requestHeaders:
		d.message.RequestHeaders = &d.headers
	case responseHeaders:
		d.message.ResponseHeaders = &d.headers
	case requestBody:
		d.message.RequestBody = &d.body
	case responseBody:
		d.message.ResponseBody = &d.body
	case requestTrailers:
		d.message.RequestTrailers = &d.trailers
	case responseTrailers:
		d.message.ResponseTrailers = &d.trailers
	}
	if err := d.message.UnmarshalVTUnsafe(msg); err != nil {
		return phase, err
	}
	return phase, nil
}

// endOfStream reports whether nothing follows in the message's direction.
func (d *decoder) endOfStream(phase workerv1.Phase) bool {
	switch phase {
	case requestHeaders, responseHeaders:
		return d.headers.EndOfStream
	case requestBody, responseBody:
		return d.body.EndOfStream
	default:
		return true
	}
}

// phaseOf finds the one field of 2 to 7. In Envoy's file they are a oneof, of which a decoder takes the last: two readers of a message with more than
// one could disagree, so that is an error. So is the same field twice.
func phaseOf(msg []byte) (phase workerv1.Phase, err error) {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return 0, errTruncated
		}
		msg = msg[n:]
		if n = protowire.ConsumeFieldValue(num, typ, msg); n < 0 {
			return 0, errTruncated
		}
		field := msg[:n]
		msg = msg[n:]
		if int(num) >= len(phaseOfField) || phaseOfField[num] == 0 {
			continue
		}
		if phase != 0 {
			return 0, errTwoMessages
		}
		phase = phaseOfField[num]
		if content, n := protowire.ConsumeBytes(field); typ == protowire.BytesType && n > 0 && twoContents(content) {
			return 0, errTwoContents
		}
	}
	if phase == 0 {
		return 0, errNoMessage
	}
	return phase, nil
}

// twoContents reports whether field 1 of a phase's message, which is its header map or body, is there more than once. A decoder that knows the map
// as a message would merge the two; ours, which passes it on as bytes, would take the last.
func twoContents(message []byte) bool {
	found := false
	for len(message) > 0 {
		num, typ, n := protowire.ConsumeTag(message)
		if n < 0 {
			return false // The decoder says what is wrong.
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(num, typ, message); n < 0 {
			return false
		}
		message = message[n:]
		if num == 1 {
			if found {
				return true
			}
			found = true
		}
	}
	return false
}

// attributes returns the attributes xds.route_name and source.address, which alias the message; nil for one that Envoy
// did not send. Envoy keeps its attributes under one key, the filter's name. All keys are searched, but two values are
// an error, because it is not known which one counts. An address that is not text, or empty, is returned as text that
// is no address: Envoy sent the attribute, so no other source of the address may take its place.
func (d *decoder) attributes() (routeName, source []byte, err error) {
	for _, a := range d.message.Attributes {
		if err := eachField(a.Value, func(num protowire.Number, entry []byte) error {
			key, value, err := mapEntry(num, entry)
			if err != nil {
				return err
			}
			switch string(key) {
			case "xds.route_name":
				text, err := stringValue(value)
				if err != nil || len(text) == 0 {
					return err
				}
				if routeName != nil || !utf8.Valid(text) {
					return errAttributes
				}
				routeName = text
			case "source.address":
				text, err := stringValue(value)
				if err != nil || source != nil {
					return errAttributes
				}
				if source = text; len(source) == 0 || len(source) > maxSource {
					source = unknownSource
				}
			}
			return nil
		}); err != nil {
			return nil, nil, err
		}
	}
	return routeName, source, nil
}

// maxSource is the longest source.address that is passed on, in bytes: longer text is not an IP address.
const maxSource = 128

// unknownSource is an address that no policy takes for one (RFC 7239 section 6.2).
var unknownSource = []byte("unknown")

// mapEntry splits an entry of Struct.fields (google/protobuf/struct.proto); other fields have no key.
func mapEntry(num protowire.Number, entry []byte) (key, value []byte, err error) {
	if num != 1 {
		return nil, nil, nil
	}
	err = eachField(entry, func(num protowire.Number, content []byte) error {
		switch num {
		case 1:
			key = content
		case 2:
			value = content
		}
		return nil
	})
	return key, value, err
}

// stringValue returns Value.string_value, field 3 (google/protobuf/struct.proto), or nothing.
func stringValue(value []byte) (text []byte, err error) {
	err = eachField(value, func(num protowire.Number, content []byte) error {
		if num == 3 {
			text = content
		}
		return nil
	})
	return text, err
}

// eachField calls do for the length-delimited fields of msg.
func eachField(msg []byte, do func(protowire.Number, []byte) error) error {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return errAttributes
		}
		msg = msg[n:]
		if n = protowire.ConsumeFieldValue(num, typ, msg); n < 0 {
			return errAttributes
		}
		field := msg[:n]
		msg = msg[n:]
		if typ != protowire.BytesType {
			continue
		}
		content, _ := protowire.ConsumeBytes(field)
		if err := do(num, content); err != nil {
			return err
		}
	}
	return nil
}
