package h2

import (
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// Request is the header section of a request. It is valid only during Handler.Open; its strings may be kept.
type Request struct {
	Method    string
	Path      string
	Scheme    string
	Authority string

	status        string // of a response
	fields        []hpack.HeaderField
	contentLength int64 // -1: none
	seen          uint8 // pseudo-headers seen
	size          uint32
	regular       bool // a regular field was seen
	malformed     string
	tooLarge      bool
}

// Bits of Request.seen.
const (
	seenMethod = 1 << iota
	seenPath
	seenScheme
	seenAuthority
	seenStatus
)

func (r *Request) reset() {
	clear(r.fields)
	*r = Request{fields: r.fields[:0], contentLength: -1}
}

// Header returns the first value of the field, and how many there are. The name is in lower case.
func (r *Request) Header(name string) (value string, n int) {
	for i := range r.fields {
		if r.fields[i].Name == name {
			if n++; n == 1 {
				value = r.fields[i].Value
			}
		}
	}
	return value, n
}

// isGRPC reports whether the request is a gRPC call (gRPC over HTTP/2, Requests).
func (r *Request) isGRPC() bool {
	ct, n := r.Header("content-type")
	return n == 1 && r.Method == "POST" && isGRPCType(ct)
}

func isGRPCType(contentType string) bool {
	rest, ok := strings.CutPrefix(contentType, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// add takes one decoded field. Fields past the size limit are dropped, and the request is refused afterwards.
func (r *Request) add(f hpack.HeaderField, maxSize uint32) {
	if r.size += f.Size(); r.size > maxSize {
		r.tooLarge = true
		return
	}
	if r.malformed != "" {
		return
	}
	if strings.HasPrefix(f.Name, ":") {
		r.addPseudo(f)
		return
	}
	r.regular = true
	if problem := checkField(f); problem != "" {
		r.malformed = problem
		return
	}
	if f.Name == "content-length" {
		n, err := strconv.ParseUint(f.Value, 10, 62)
		if err != nil || r.contentLength >= 0 && r.contentLength != int64(n) { // ParseUint takes no sign.
			r.malformed = "content-length"
			return
		}
		r.contentLength = int64(n)
	}
	r.fields = append(r.fields, f)
}

// addPseudo takes a pseudo-header (RFC 9113 section 8.3).
func (r *Request) addPseudo(f hpack.HeaderField) {
	var bit uint8
	var to *string
	switch f.Name {
	case ":method":
		bit, to = seenMethod, &r.Method
	case ":path":
		bit, to = seenPath, &r.Path
	case ":scheme":
		bit, to = seenScheme, &r.Scheme
	case ":authority":
		bit, to = seenAuthority, &r.Authority
	case ":status":
		bit, to = seenStatus, &r.status
	default:
		r.malformed = "unknown pseudo-header"
		return
	}
	if r.regular || r.seen&bit != 0 || !validValue(f.Value) {
		r.malformed = "pseudo-header out of order, repeated or invalid"
		return
	}
	r.seen |= bit
	*to = f.Value
}

// check finds what is missing once all fields are there.
func (r *Request) check() string {
	const required = seenMethod | seenPath | seenScheme
	switch {
	case r.malformed != "":
		return r.malformed
	case r.seen&seenStatus != 0:
		return ":status in a request"
	case r.Method == "CONNECT":
		if r.seen&^(seenMethod|seenAuthority) != 0 || r.Authority == "" {
			return "CONNECT with other pseudo-headers than :method and :authority"
		}
		return ""
	case r.seen&required != required:
		return "pseudo-header missing"
	case r.Path == "" || r.Method == "":
		return "empty :path or :method"
	}
	return ""
}

// checkTrailers finds what is wrong with a trailer section (RFC 9113 section 8.1).
func (r *Request) checkTrailers() string {
	if r.malformed != "" {
		return r.malformed
	}
	if r.seen != 0 {
		return "pseudo-header in trailers"
	}
	return ""
}

// checkField finds what is wrong with a regular field (RFC 9113 sections 8.2, 8.2.1, 8.2.2).
func checkField(f hpack.HeaderField) string {
	if f.Name == "" {
		return "empty field name"
	}
	for i := range len(f.Name) {
		if c := f.Name[i]; c <= ' ' || c >= 0x7f || 'A' <= c && c <= 'Z' || c == ':' {
			return "field name with an illegal character"
		}
	}
	if !validValue(f.Value) {
		return "field value with an illegal character"
	}
	switch f.Name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return "connection-specific field"
	case "te":
		if f.Value != "trailers" {
			return "te other than trailers"
		}
	}
	return ""
}

func validValue(v string) bool {
	if v == "" {
		return true
	}
	if first, last := v[0], v[len(v)-1]; first == ' ' || first == '\t' || last == ' ' || last == '\t' {
		return false
	}
	for i := range len(v) {
		if c := v[i]; c == 0 || c == '\r' || c == '\n' {
			return false
		}
	}
	return true
}
