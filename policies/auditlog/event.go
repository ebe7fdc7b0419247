package auditlog

import (
	"bytes"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/policy-engine/policy-engine/fastpath/view"
	"github.com/policy-engine/policy-engine/policies"
)

// maxValue is how much of a value is written, in bytes.
const maxValue = 512

const redacted = "[redacted]"

// event writes lines of JSON. All that a client chose is written as text of JSON, so that it can't end a line or begin a member.
type event struct {
	clock                           policies.Clock
	route                           string
	query                           bool
	requestHeaders, responseHeaders []string
	claims, metadata                []string
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
	dst = member(dst, "host", view.String(r.Authority()))
	path, query, _ := bytes.Cut(r.Path(), []byte{'?'})
	dst = member(dst, "path", view.String(path))
	if e.query {
		dst = append(dst, `,"query":`...)
		dst = e.appendQuery(dst, query)
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
			if value, ok := id.Claim(claim); ok {
				dst = e.value(dst, claim, value)
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
	dst = append(quote(dst, name), ':')
	if e.redact.has(name) {
		value = redacted
	}
	return quote(dst, value)
}

// appendQuery appends the query as it came, but for values that are not to be written. ';' separates too: some servers take it so.
func (e *event) appendQuery(dst, query []byte) []byte {
	dst = append(dst, '"')
	for begin := len(dst); len(query) > 0; {
		if len(dst)-begin > maxValue {
			dst = append(dst, "…"...)
			break
		}
		pair := query
		if i := bytes.IndexAny(query, "&;"); i >= 0 {
			pair = query[:i]
		}
		key, value, given := bytes.Cut(pair, []byte{'='})
		dst = escape(dst, view.String(key))
		if given {
			dst = append(dst, '=')
			if e.secret(key) {
				value = view.Bytes(redacted)
			}
			dst = escape(dst, view.String(value))
		}
		if query = query[len(pair):]; len(query) > 0 {
			dst = append(dst, query[0])
			query = query[1:]
		}
	}
	return append(dst, '"')
}

// secret reports whether a parameter's value is not to be written, however its name is encoded. Of a name that can't be decoded nobody knows what an upstream makes.
func (e *event) secret(key []byte) bool {
	name, err := url.QueryUnescape(view.String(key)) // itself, where there is nothing to decode
	return err != nil || e.redact.has(name)
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
