package auditlog

import (
	"bytes"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/policy-engine/policy-engine/fastpath/view"
	"github.com/policy-engine/policy-engine/policies"
)

// maxValue is how much of a value is written, in bytes.
const maxValue = 512

// maxSearched is the longest name or value that is searched for credentials, in bytes. It bounds the work that a client can
// make: each byte is read once for each decoding.
const maxSearched = 8 << 10

const redacted = "[redacted]"

// event writes lines of JSON. All that a client chose is written as text of JSON, so that it can't end a line or begin a member.
type event struct {
	clock                           policies.Clock
	route                           string
	query                           bool
	requestHeaders, responseHeaders []string
	claims                          []policies.ClaimPath
	metadata                        []string
	redact                          names
}

// ofRequest appends the line of a request, without a line break.
func (e *event) ofRequest(dst []byte, r *policies.Request) []byte {
	dst = e.begin(dst, "request", r)
	return append(dst, '}')
}

// ofResponse appends the line of a response.
func (e *event) ofResponse(dst []byte, r *policies.Response) []byte {
	dst = e.begin(dst, "response", r.Request())
	dst = strconv.AppendInt(append(dst, `,"status":`...), int64(r.Status()), 10)
	if len(e.responseHeaders) > 0 {
		dst = append(dst, `,"response_headers":{`...)
		for _, header := range e.responseHeaders {
			value, n := r.Header(header)
			dst = e.header(dst, header, value, n)
		}
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

// begin appends what both have, and leaves the object open.
func (e *event) begin(dst []byte, phase string, r *policies.Request) []byte {
	dst = append(dst, `{"time":"`...)
	dst = e.clock.Now().UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(append(append(dst, `","event":"`...), phase...), '"')
	dst = member(dst, "route", e.route)
	dst = member(dst, "request_id", view.String(r.ID()))
	dst = append(dst, `,"client":`...)
	if address := r.ClientAddress(); address.IsValid() {
		dst = append(address.AppendTo(append(dst, '"')), '"')
	} else {
		dst = append(dst, `null`...)
	}
	dst = member(dst, "method", view.String(r.Method()))
	host := r.Authority()
	dst = append(dst, `,"host":"`...)
	if i := bytes.LastIndexByte(host, '@'); i >= 0 {
		dst, host = append(dst, redacted...), host[i:]
	}
	dst = append(escape(dst, view.String(host)), '"')
	path, query, _ := bytes.Cut(r.Path(), []byte{'?'})
	dst = append(dst, `,"path":"`...)
	dst = append(e.text(dst, path, true), '"')
	if e.query {
		dst = append(dst, `,"query":"`...)
		dst = append(e.text(dst, query, false), '"')
	}
	dst = e.identity(dst, r.Identity())
	if len(e.requestHeaders) > 0 {
		dst = append(dst, `,"request_headers":{`...)
		for _, header := range e.requestHeaders {
			value, n := r.Header(header)
			dst = e.header(dst, header, value, n)
		}
		dst = append(dst, '}')
	}
	if len(e.metadata) > 0 {
		dst = append(dst, `,"metadata":{`...)
		for _, key := range e.metadata {
			if value, ok := r.Metadata(key); ok {
				dst = e.value(dst, key, value)
			}
		}
		dst = append(dst, '}')
	}
	return dst
}

func (e *event) identity(dst []byte, id *policies.Identity) []byte {
	if id == nil {
		return append(dst, `,"identity":null`...)
	}
	dst = append(dst, `,"identity":{"subject":`...)
	dst = quote(dst, id.Subject)
	dst = member(dst, "method", id.Method)
	dst = member(dst, "issuer", id.Issuer)
	if len(e.claims) > 0 {
		dst = append(dst, `,"claims":{`...)
		for _, claim := range e.claims {
			if value, ok := id.ClaimAt(claim); ok {
				dst = e.value(dst, claim.String(), value)
			}
		}
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

// header appends a header that is there; of several fields the first, and how many there are.
func (e *event) header(dst []byte, name string, value []byte, n int) []byte {
	if n == 0 {
		return dst
	}
	dst = e.value(dst, name, view.String(value))
	if n > 1 {
		dst = append(dst[:len(dst)-1], ` (and `...)
		dst = strconv.AppendInt(dst, int64(n-1), 10)
		dst = append(dst, ` more)"`...)
	}
	return dst
}

// value appends a member of a nested object, without its value if that is not to be written.
func (e *event) value(dst []byte, name, value string) []byte {
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(quote(dst, name), `:"`...)
	if e.redact.has(name) {
		return append(append(dst, redacted...), '"')
	}
	return append(e.text(dst, view.Bytes(value), false), '"')
}

// text appends a path, a query or a value as JSON has it within quotation marks, without the credentials that are in it:
// values of parameters, and user information of URLs.
func (e *event) text(dst, text []byte, path bool) []byte {
	// Fast path: there are neither parameters nor URLs.
	if !bytes.ContainsAny(text, "=%@{") {
		return escape(dst, view.String(text))
	}
	separators, ends := "&;?#", "&"
	if path {
		separators, ends = "/&;?#", "/&"
	}
	for begin := len(dst); len(text) > 0; {
		if len(dst)-begin > maxValue {
			return append(dst, "…"...)
		}
		end := indexAny(text, separators)
		name, value, given := bytes.Cut(text[:end], []byte{'='})
		from, to, url := 0, 0, false
		if bytes.Contains(text[:min(end+2, len(text))], []byte("//")) {
			from, to, url = userinfo(text)
		}
		switch {
		case given && e.redact.secret(name):
			// A server may not take ';' for a separator, so what follows is a part of the value.
			end = len(name) + indexAny(text[len(name):], ends)
			dst = append(append(e.part(dst, name), '='), redacted...)
		case url && from <= end+2:
			dst = append(e.part(dst, text[:from]), redacted...)
			end = to
		case given:
			dst = e.part(append(e.part(dst, name), '='), value)
		default:
			dst = e.part(dst, name)
		}
		if text = text[end:]; len(text) > 0 && text[0] != '@' {
			dst = escape(dst, view.String(text[:1]))
			text = text[1:]
		}
	}
	return dst
}

// part appends a name or a value, if no credential is in it. One that is too long to be searched may have one.
func (e *event) part(dst, text []byte) []byte {
	if bytes.ContainsAny(text, "%={") && (len(text) > maxSearched || e.redact.leaks(text)) {
		return append(dst, redacted...)
	}
	return escape(dst, view.String(text))
}

// indexAny returns where the first of the characters is in text; its length if none is.
func indexAny(text []byte, characters string) int {
	if i := bytes.IndexAny(text, characters); i >= 0 {
		return i
	}
	return len(text)
}

func member(dst []byte, name, value string) []byte {
	dst = append(append(append(dst, ',', '"'), name...), '"', ':')
	return quote(dst, value)
}

func quote(dst []byte, s string) []byte { return append(escape(append(dst, '"'), s), '"') }

// escape appends text as JSON has it within quotation marks (RFC 8259 section 7), cut where it is too long. Bytes that are not UTF-8 become U+FFFD. DEL and the separators
// of lines that JSON allows are escaped too: a viewer of the log must not take them for its own.
func escape(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	for i := 0; i < len(s); {
		if i >= maxValue {
			return append(dst, "…"...)
		}
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
			i++
		case c < ' ' || c == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			i++
		case c < utf8.RuneSelf:
			dst = append(dst, c)
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			switch {
			case 0x80 <= r && r < 0xa0, 0x2028 <= r && r <= 0x202e, 0x2066 <= r && r <= 0x2069:
				dst = append(dst, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
			default:
				dst = utf8.AppendRune(dst, r)
			}
			i += n
		}
	}
	return dst
}
