package policies

import (
	"bytes"
	"iter"
	"strings"

	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
	"github.com/policy-engine/policy-engine/fastpath/view"
)

// Request is an HTTP request on its way to the upstream, as the policies before left it. It is valid only during the call of the phase method,
// and so is every byte slice that it returns: copy what has to stay (string(b) does). Changes are seen by all later policies and by the upstream.
type Request struct {
	x           *Exchange
	headers     headers
	trailers    headers
	endOfStream bool
}

func (r *Request) reset() {
	r.headers.reset()
	r.trailers.reset()
	r.endOfStream = false
}

// Route returns the name of the route that Envoy chose. It comes from Envoy's configuration, never from the client.
func (r *Request) Route() string { r.x.check(); return r.x.route }

// Method returns the method, such as GET.
func (r *Request) Method() []byte { return r.pseudo(":method") }

// Path returns the path with its query, such as /orders?page=2.
func (r *Request) Path() []byte { return r.pseudo(":path") }

// Authority returns the host, with the port where the client sent one.
func (r *Request) Authority() []byte { return r.pseudo(":authority") }

// Scheme returns http or https.
func (r *Request) Scheme() []byte { return r.pseudo(":scheme") }

// ID returns Envoy's x-request-id, empty if there is none.
func (r *Request) ID() []byte { return r.pseudo("x-request-id") }

func (r *Request) pseudo(name string) []byte {
	value, _ := r.Header(name)
	return value
}

// EndOfStream reports whether no body follows the headers.
func (r *Request) EndOfStream() bool { return r.endOfStream }

// Header returns the first value of the header, and how many fields of that name there are. Names compare without regard to case.
func (r *Request) Header(name string) (value []byte, n int) {
	r.x.check()
	return r.headers.get(name)
}

// Headers goes through all header fields, the pseudo-headers (":path") among them.
func (r *Request) Headers() iter.Seq2[[]byte, []byte] { r.x.check(); return r.headers.all() }

// Query returns the decoded value of the first query parameter of that name, and how many there are. It decodes as HTML forms do
// (RFC 1866: '+' is a space); a parameter that can't be decoded is not counted.
func (r *Request) Query(name string) (value []byte, n int) {
	_, query, _ := bytes.Cut(r.Path(), []byte{'?'})
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, []byte{'&'})
		k, v, _ := bytes.Cut(pair, []byte{'='})
		if k, ok := unescape(k); !ok || string(k) != name {
			continue
		}
		v, ok := unescape(v)
		if !ok {
			continue
		}
		if n++; n == 1 {
			value = v
		}
	}
	return value, n
}

// QueryCount returns how many query parameters of that name there are, also those whose values can't be decoded. Where it differs from what
// Query counts, the upstream may see a value that the policy does not.
func (r *Request) QueryCount(name string) (n int) {
	_, query, _ := bytes.Cut(r.Path(), []byte{'?'})
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, []byte{'&'})
		k, _, _ := bytes.Cut(pair, []byte{'='})
		if k, ok := unescape(k); ok && len(pair) > 0 && string(k) == name {
			n++
		}
	}
	return n
}

// CookieCount returns how many cookies there are that a server may read as one of that name: those that RemoveCookie removes. Where it differs
// from what Cookie counts, the upstream may see a value that the policy does not.
func (r *Request) CookieCount(name string) (n int) {
	r.x.check()
	for i := range r.headers.fields {
		f := &r.headers.fields[i]
		if !equalFold(f.Name, "cookie") {
			continue
		}
		for value := f.Value; len(value) > 0; {
			var pair []byte
			pair, value, _ = bytes.Cut(value, []byte{';'})
			if isCookie(pair, name) {
				n++
			}
		}
	}
	return n
}

// isCookie reports whether the pair is the cookie of that name. It accepts more than RFC 6265 does, since servers differ in what they trim.
func isCookie(pair []byte, name string) bool {
	k, _, _ := bytes.Cut(pair, []byte{'='})
	return string(bytes.Trim(k, " \t")) == name
}

// RemoveCookie removes the cookies of that name. All others stay, in one header line (RFC 6265 section 5.4).
func (r *Request) RemoveCookie(name string) {
	r.x.check()
	var rest []byte
	found := false
	for i := range r.headers.fields {
		f := &r.headers.fields[i]
		if !equalFold(f.Name, "cookie") {
			continue
		}
		for value := f.Value; len(value) > 0; {
			var pair []byte
			pair, value, _ = bytes.Cut(value, []byte{';'})
			if pair = bytes.Trim(pair, " \t"); len(pair) == 0 {
				continue
			}
			if isCookie(pair, name) {
				found = true
				continue
			}
			if len(rest) > 0 {
				rest = append(rest, "; "...)
			}
			rest = append(rest, pair...)
		}
	}
	switch {
	case !found:
	case len(rest) == 0:
		r.RemoveHeader("cookie")
	default:
		r.SetHeader("cookie", view.String(rest))
	}
}

// Cookie returns the value of the first cookie of that name, and how many there are (RFC 6265 section 5.4: several Cookie fields count together).
// A cookie without '=' is not counted.
func (r *Request) Cookie(name string) (value []byte, n int) {
	r.x.check()
	for i := range r.headers.fields {
		f := &r.headers.fields[i]
		if !equalFold(f.Name, "cookie") {
			continue
		}
		for rest := f.Value; len(rest) > 0; {
			var pair []byte
			pair, rest, _ = bytes.Cut(rest, []byte{';'})
			if !isCookie(pair, name) {
				continue
			}
			_, v, ok := bytes.Cut(pair, []byte{'='})
			if !ok {
				continue
			}
			v = bytes.Trim(v, " \t")
			if n++; n == 1 {
				if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
					v = v[1 : len(v)-1]
				}
				value = v
			}
		}
	}
	return value, n
}

// CutScheme splits credentials into the authentication scheme and what follows it (RFC 9110 section 11.4), without the spaces between
// them. ok is false if something other than a space follows the scheme: a server may read more into it than this does.
func CutScheme(credentials []byte) (scheme, rest []byte, ok bool) {
	credentials = bytes.TrimLeft(credentials, " \t")
	end := 0
	for end < len(credentials) && httpsyntax.Token(credentials[end:end+1]) {
		end++
	}
	scheme, rest = credentials[:end], credentials[end:]
	return scheme, bytes.TrimLeft(rest, " "), len(rest) == 0 || rest[0] == ' '
}

// Identity returns who makes the request, or nil if no policy has established it. It is read only.
func (r *Request) Identity() *Identity {
	r.x.check()
	if !r.x.hasIdentity {
		return nil
	}
	return &r.x.identity
}

// SetIdentity says who makes the request, for all later policies. The subject must not be empty, and all text must be valid UTF-8.
func (r *Request) SetIdentity(id Identity) { r.x.setIdentity(id) }

// Metadata returns what an earlier policy set under the key, and whether there is such.
func (r *Request) Metadata(key string) (string, bool) { return r.x.getMetadata(key) }

// SetMetadata sets a value for later policies, in the response phase too. It is not sent to the upstream. The strings are kept; they must be valid UTF-8.
func (r *Request) SetMetadata(key, value string) { r.x.setMetadata(key, value) }

// SetHeader replaces all values of the header.
func (r *Request) SetHeader(name, value string) {
	r.x.change(Change{Kind: SetHeader, Name: name, Value: view.Bytes(value)})
}

// AppendHeader adds a value to the header.
func (r *Request) AppendHeader(name, value string) {
	r.x.change(Change{Kind: AppendHeader, Name: name, Value: view.Bytes(value)})
}

// RemoveHeader takes the header away, if it is there.
func (r *Request) RemoveHeader(name string) {
	r.x.change(Change{Kind: RemoveHeader, Name: name})
}

// Spellings returns how many fields there are whose name a server may read as name: those that RemoveSpellings removes.
// Where it differs from what Header counts, the upstream may see a field that the policy does not.
func (r *Request) Spellings(name string) (n int) {
	r.x.check()
	for i := range r.headers.fields {
		if equalSpelling(r.headers.fields[i].Name, name) {
			n++
		}
	}
	return n
}

// ClientHeader returns the header as the client sent it, before any removal or other change: the value of the first field of exactly
// that name, nil if there is none, and how many fields there are in all spellings (see Spellings). It is for a policy that reads what a
// client names in a header that the policy itself owns, and checks it: nothing else vouches for it.
func (r *Request) ClientHeader(name string) (value []byte, n int) {
	r.x.check()
	return r.x.clientHeader(name)
}

// RemoveSpellings removes the header in every spelling that a server may read as the same name: any case, and any character that is
// neither a letter nor a digit for any other such. A policy that owns the header calls it first, also when it then sets nothing. The
// removal stays when the policy fails afterwards and the operator lets the request go on.
func (r *Request) RemoveSpellings(name string) {
	r.x.check()
	for i := range r.headers.fields {
		if f := &r.headers.fields[i]; equalSpelling(f.Name, name) {
			// Fast path: but for its case, the name is the policy's own string, and nothing has to be copied.
			spelling := name
			if !equalFold(f.Name, name) {
				spelling = string(f.Name)
			}
			r.x.change(Change{Kind: RemoveHeader, Name: spelling, Stays: true})
		}
	}
}

// SetPath replaces the path and its query. The route that Envoy chose stays.
func (r *Request) SetPath(path string) {
	r.x.change(Change{Kind: SetPath, Value: view.Bytes(path)})
}

// SetPathAndRoute replaces the path and its query, and lets Envoy choose the route by the path that the request has in the end: where it goes, and its time-outs. The policies of that route
// do not run: those of the route that the request came on are all that it meets, in the response too.
func (r *Request) SetPathAndRoute(path string) {
	r.x.change(Change{Kind: SetPathAndRoute, Value: view.Bytes(path)})
}

// SetQuery sets the query parameter to one value, in place of all that it had.
func (r *Request) SetQuery(name, value string) {
	path := r.withoutQuery(name)
	sep := byte('?')
	if bytes.IndexByte(path, '?') >= 0 {
		sep = '&'
	}
	path = append(path, sep)
	path = append(escape(path, name), '=')
	path = escape(path, value)
	r.x.change(Change{Kind: SetPath, Value: path})
}

// RemoveQuery takes the query parameter away, all its values, however its name is percent-encoded.
func (r *Request) RemoveQuery(name string) {
	if path := r.withoutQuery(name); len(path) != len(r.Path()) {
		r.x.change(Change{Kind: SetPath, Value: path})
	}
}

// withoutQuery returns a new path without the query parameter.
func (r *Request) withoutQuery(name string) []byte {
	path, query, found := bytes.Cut(r.Path(), []byte{'?'})
	out := append(make([]byte, 0, len(path)+len(query)+1), path...)
	if !found {
		return out
	}
	sep, removed := byte('?'), false
	for rest, more := query, true; more; {
		var pair []byte
		pair, rest, more = bytes.Cut(rest, []byte{'&'})
		k, _, _ := bytes.Cut(pair, []byte{'='})
		if k, ok := unescape(k); ok && len(pair) > 0 && string(k) == name {
			removed = true
			continue
		}
		out = append(append(out, sep), pair...)
		sep = '&'
	}
	if !removed {
		return append(append(append(out[:0], path...), '?'), query...)
	}
	return out
}

// SetMethod replaces the method.
func (r *Request) SetMethod(method string) {
	r.x.change(Change{Kind: SetMethod, Value: view.Bytes(method)})
}

// unescape decodes a form-encoded name or value; it returns src itself when there is nothing to decode.
func unescape(src []byte) ([]byte, bool) {
	if bytes.IndexByte(src, '%') < 0 && bytes.IndexByte(src, '+') < 0 {
		return src, true
	}
	out := make([]byte, 0, len(src))
	for i := 0; i < len(src); i++ {
		switch c := src[i]; c {
		case '+':
			out = append(out, ' ')
		case '%':
			if i+2 >= len(src) {
				return nil, false
			}
			hi, lo := httpsyntax.Unhex(src[i+1]), httpsyntax.Unhex(src[i+2])
			if hi < 0 || lo < 0 {
				return nil, false
			}
			out = append(out, byte(hi<<4|lo))
			i += 2
		default:
			out = append(out, c)
		}
	}
	return out, true
}

// escape appends s with all but unreserved characters (RFC 3986 section 2.3) percent-encoded.
func escape(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || digit(c) || strings.IndexByte("-._~", c) >= 0 {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}
