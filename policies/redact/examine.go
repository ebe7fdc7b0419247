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
	essence, _, _ := bytes.Cut(contentType, []byte(";"))
	essence = bytes.Trim(essence, " \t")
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
