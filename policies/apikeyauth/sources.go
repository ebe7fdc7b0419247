package apikeyauth

import (
	"bytes"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

// authorization is the header that carries a key after a scheme.
const authorization = "authorization"

// sources are where a key may be; an empty name is none.
type sources struct {
	header  string // in lower case
	schemes []string
	query   string
	cookie  string
}

// String names the places.
func (s *sources) String() string {
	var all []string
	if s.header != "" {
		all = append(all, "header "+s.header)
	}
	for _, scheme := range s.schemes {
		all = append(all, "header "+authorization+" (scheme "+scheme+")")
	}
	if s.query != "" {
		all = append(all, "query parameter "+s.query)
	}
	if s.cookie != "" {
		all = append(all, "cookie "+s.cookie)
	}
	return strings.Join(all, " or ")
}

// found is what the sources have.
type found struct {
	value     []byte // of the last credential seen; aliases the request
	count     int    // of credentials, empty ones too
	inHeader  bool
	inScheme  bool
	inQuery   bool
	inCookie  bool
	malformed bool // one can't be read, or the upstream might read what we do not
}

// find searches all places: one that is skipped is one where the upstream may see another key.
func (s *sources) find(r *policies.Request) found {
	var f found
	if s.header != "" {
		if spelled := r.Spellings(s.header); spelled > 0 {
			value, n := r.Header(s.header)
			f.value, f.count, f.malformed, f.inHeader = value, spelled, n == 0, true
		}
	}
	if len(s.schemes) > 0 {
		s.findScheme(r, &f)
	}
	if s.query != "" {
		if n := r.QueryCount(s.query); n > 0 {
			value, readable := r.Query(s.query)
			f.add(value, n, readable)
			f.inQuery = true
		}
	}
	if s.cookie != "" {
		if n := r.CookieCount(s.cookie); n > 0 {
			value, readable := r.Cookie(s.cookie)
			f.add(value, n, readable)
			f.inCookie = true
		}
	}
	return f
}

// add takes n credentials of a place. readable of them can be read; value is the first of these.
func (f *found) add(value []byte, n, readable int) {
	f.value, f.count, f.malformed = value, f.count+n, f.malformed || readable != n
}

// findScheme looks for credentials of one of the schemes. Those of another scheme are not the policy's, unless there are several: the
// upstream may read either.
func (s *sources) findScheme(r *policies.Request, f *found) {
	all := r.Spellings(authorization)
	if all == 0 {
		return
	}
	value, n := r.Header(authorization)
	scheme, key, ok := policies.CutScheme(value)
	if all == 1 && n == 1 && !s.isScheme(scheme) {
		return
	}
	f.add(key, all, n)
	f.malformed = f.malformed || !ok
	f.inScheme = true
}

// isScheme compares without regard to case (RFC 9110 section 11.1).
func (s *sources) isScheme(scheme []byte) bool {
	for _, accepted := range s.schemes {
		if len(scheme) == len(accepted) && bytes.EqualFold(scheme, []byte(accepted)) {
			return true
		}
	}
	return false
}

// strip removes the credential from where it was found. A header in another spelling than ours is never let through to here.
func (s *sources) strip(r *policies.Request, f *found) {
	if f.inHeader {
		r.RemoveHeader(s.header)
	}
	if f.inScheme {
		r.RemoveHeader(authorization)
	}
	if f.inQuery {
		r.RemoveQuery(s.query)
	}
	if f.inCookie {
		r.RemoveCookie(s.cookie)
	}
}
