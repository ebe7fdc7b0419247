package apikeyauth

import (
	"bytes"
	"net/url"

	"github.com/policy-engine/policy-engine/fastpath/view"
	"github.com/policy-engine/policy-engine/policies"
)

// sources are where a key may be; an empty name is none.
type sources struct {
	header string // in lower case
	query  string
	cookie string
}

// found is what the sources have.
type found struct {
	value     []byte // of the last credential seen; aliases the request
	count     int    // of credentials, empty ones too
	inHeader  bool
	inQuery   bool
	inCookie  bool
	malformed bool // one can't be read, or the upstream might read what we do not
}

// find looks everywhere: one place that is skipped is one where the upstream may see another key.
func (s *sources) find(r *policies.Request) found {
	var f found
	if s.header != "" {
		if spelled := r.Spellings(s.header); spelled > 0 {
			value, n := r.Header(s.header)
			f.value, f.count, f.malformed, f.inHeader = value, spelled, n == 0, true
		}
	}
	if s.query != "" {
		s.findQuery(r.Path(), &f)
	}
	if s.cookie != "" {
		for name, value := range r.Headers() {
			if bytes.EqualFold(name, []byte("cookie")) {
				s.findCookie(value, &f)
			}
		}
	}
	return f
}

// findQuery counts parameters that can't be decoded too, unlike Request.Query.
func (s *sources) findQuery(path []byte, f *found) {
	_, query, _ := bytes.Cut(path, []byte{'?'})
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, []byte{'&'})
		k, v, _ := bytes.Cut(pair, []byte{'='})
		// Without an escape, QueryUnescape returns its argument; with one, a new string.
		if name, err := url.QueryUnescape(view.String(k)); err != nil || name != s.query {
			continue
		}
		value, err := url.QueryUnescape(view.String(v))
		f.malformed = f.malformed || err != nil
		f.value, f.inQuery = view.Bytes(value), true
		f.count++
	}
}

func (s *sources) findCookie(header []byte, f *found) {
	for len(header) > 0 {
		var pair []byte
		pair, header, _ = bytes.Cut(header, []byte{';'})
		if !s.isCookie(pair) {
			continue
		}
		_, v, _ := bytes.Cut(pair, []byte{'='})
		v = bytes.Trim(v, " \t")
		if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
			v = v[1 : len(v)-1]
		}
		f.value, f.inCookie = v, true
		f.count++
	}
}

// isCookie tells whether the pair is the credential's; more readily than RFC 6265 does, since servers differ in what they trim.
func (s *sources) isCookie(pair []byte) bool {
	k, _, _ := bytes.Cut(pair, []byte{'='})
	return string(bytes.Trim(k, " \t")) == s.cookie
}

// strip takes the credential out of the request, from where it was found. A header in another spelling than ours is never let through to here.
func (s *sources) strip(r *policies.Request, f *found) {
	if f.inHeader {
		r.RemoveHeader(s.header)
	}
	if f.inQuery {
		r.RemoveQuery(s.query)
	}
	if f.inCookie {
		s.stripCookie(r)
	}
}

// stripCookie leaves all other cookies, in one header line (RFC 6265 section 5.4).
func (s *sources) stripCookie(r *policies.Request) {
	var rest []byte
	for name, value := range r.Headers() {
		if !bytes.EqualFold(name, []byte("cookie")) {
			continue
		}
		for len(value) > 0 {
			var pair []byte
			pair, value, _ = bytes.Cut(value, []byte{';'})
			if pair = bytes.Trim(pair, " \t"); len(pair) == 0 || s.isCookie(pair) {
				continue
			}
			if len(rest) > 0 {
				rest = append(rest, "; "...)
			}
			rest = append(rest, pair...)
		}
	}
	if len(rest) == 0 {
		r.RemoveHeader("cookie")
		return
	}
	r.SetHeader("cookie", view.String(rest))
}
