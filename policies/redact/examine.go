package redact

import (
	"bytes"
	"mime"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

// message is a request or a response.
type message interface {
	Header(name string) ([]byte, int)
}

// examine tells by the headers whether the body is to be looked at, and if so, whether it can't be. Who sends the message may say of it what he likes, so whatever is
// not clear is looked at. status is 0 for a request.
func (p *Policy) examine(m message, status int, refusals *refusals) (looked bool, refusal *policies.Verdict) {
	contentType, n := m.Header("content-type")
	if n == 1 && !p.wants(contentType) {
		return false, nil
	}
	_, ranges := m.Header("content-range")
	switch {
	case n == 1 && framed(contentType):
		return true, &refusals.framed
	case ranges > 0 || status == 206:
		// A range that begins in the middle of a match has the rest of it in clear (RFC 9110 section 14).
		return true, &refusals.partial
	case n > 1 || n == 1 && !legibleCharset(contentType):
		return true, &refusals.charset
	}
	return true, nil
}

// wants reports whether bodies of that type are looked at.
func (p *Policy) wants(contentType []byte) bool {
	if len(p.types) == 0 {
		return true
	}
	essence := essenceOf(contentType)
	if bytes.Count(essence, []byte("/")) != 1 || bytes.ContainsAny(essence, " \t,\"") {
		return true // It is not readable.
	}
	text := strings.ToLower(string(essence))
	for _, t := range p.types {
		if t.is(text) {
			return true
		}
	}
	return false
}

// essenceOf returns a media type without its parameters.
func essenceOf(contentType []byte) []byte {
	essence, _, _ := bytes.Cut(contentType, []byte(";"))
	return bytes.Trim(essence, " \t")
}

// isJSON reports whether bodies of that type are JSON, or texts of it one after the other.
func isJSON(contentType []byte) bool {
	switch essence := strings.ToLower(string(essenceOf(contentType))); essence {
	case "application/json", "text/json", "application/x-ndjson", "application/jsonl", "application/json-seq":
		return true
	default:
		return strings.HasSuffix(essence, "+json")
	}
}

// framedTypes are media types, or what they start with, of formats that tell lengths: a replacement of another length
// makes another message of them, or none.
var framedTypes = []struct {
	text   string
	prefix bool
}{
	{"application/grpc", true}, // also +proto, +json, -web and -web-text
	{"application/connect+", true},
	{"application/proto", false},
	{"application/protobuf", false},
	{"application/x-protobuf", false},
	{"application/vnd.google.protobuf", false},
	{"application/msgpack", false},
	{"application/x-msgpack", false},
	{"application/vnd.msgpack", false},
	{"application/cbor", false},
	{"application/bson", false},
	{"application/avro", false},
	{"avro/binary", false},
}

// framed reports whether a body of that type has lengths in it.
func framed(contentType []byte) bool {
	essence := essenceOf(contentType)
	for _, t := range framedTypes {
		if n := len(t.text); len(essence) == n || t.prefix && len(essence) > n {
			if bytes.EqualFold(essence[:n], []byte(t.text)) {
				return true
			}
		}
	}
	return len(essence) > 5 && bytes.EqualFold(essence[len(essence)-5:], []byte("+cbor"))
}

// legibleCharset reports whether text stands in the body as it does in the parameters, which are UTF-8. Of a type that can't be read, nobody knows.
func legibleCharset(contentType []byte) bool {
	// Fast path: there is none.
	if !containsFold(contentType, "charset") {
		return true
	}
	_, params, err := mime.ParseMediaType(string(contentType))
	if err != nil {
		return false
	}
	switch strings.ToLower(params["charset"]) {
	case "", "utf-8", "utf8", "us-ascii", "ascii":
		return true
	}
	return false
}

func containsFold(b []byte, text string) bool {
	for i := 0; i+len(text) <= len(b); i++ {
		if bytes.EqualFold(b[i:i+len(text)], []byte(text)) {
			return true
		}
	}
	return false
}
