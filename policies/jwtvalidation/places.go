package jwtvalidation

import (
	"bytes"

	"github.com/policy-engine/policy-engine/policies"
)

// place is where a token may be.
type place struct {
	kind    placeKind
	name    string // of a header: in lower case
	scheme  string // of a header; may be empty
	forward bool   // whether the upstream sees the token that was verified
}

type placeKind uint8

const (
	inHeader placeKind = iota
	inCookie
	inQuery
)

// placesOf returns the places in the order in which they are searched.
func placesOf(p *Params, header string) (places []place) {
	forward := func(byDefault bool) bool {
		if p.ForwardToken != nil {
			return *p.ForwardToken
		}
		return byDefault
	}
	if header != "" {
		places = append(places, place{inHeader, header, p.Scheme, forward(true)})
	}
	if p.CookieName != "" {
		places = append(places, place{inCookie, p.CookieName, "", forward(false)})
	}
	if p.QueryParam != "" {
		places = append(places, place{inQuery, p.QueryParam, "", forward(false)})
	}
	return places
}

// found is what the places have.
type found struct {
	raw    []byte // the token of the first place that has one; aliases the request
	chosen int    // the index of that place
	there  uint8  // a bit for each place that has a token or an empty one
}

// find searches all places: one that is skipped is one where the upstream may see another token.
func (p *Policy) find(r *policies.Request) (f found, refusal *policies.Verdict) {
	for i := range p.places {
		value, there, refusal := p.places[i].find(r, &p.refusals)
		if refusal != nil {
			return found{}, refusal
		}
		if !there {
			continue
		}
		f.there |= 1 << i
		if f.raw == nil && len(value) > 0 {
			f.raw, f.chosen = value, i
		}
	}
	return f, nil
}

func (p *place) find(r *policies.Request, refusals *refusals) (value []byte, there bool, refusal *policies.Verdict) {
	var n, all int
	switch p.kind {
	case inHeader:
		value, n = r.Header(p.name)
		all = r.Spellings(p.name)
	case inCookie:
		value, n = r.Cookie(p.name)
		all = r.CookieCount(p.name)
	case inQuery:
		value, n = r.Query(p.name)
		all = r.QueryCount(p.name)
	}
	switch {
	case all > 1 || n > 1:
		return nil, false, &refusals.repeated
	case all != n && p.kind == inHeader: // Another spelling.
		return nil, false, &refusals.repeated
	case all != n: // The upstream may read what we do not.
		return nil, false, &refusals.malformed
	case n == 0:
		return nil, false, nil
	}
	if p.scheme != "" {
		scheme, rest, ok := policies.CutScheme(value)
		// RFC 9110 section 11.1: schemes compare without regard to case. Credentials of another scheme are not ours.
		if !equalFold(scheme, p.scheme) {
			return nil, false, nil
		}
		if !ok { // The upstream may read what we do not.
			return nil, false, &refusals.malformed
		}
		value = rest
	}
	return value, true, nil
}

func equalFold(b []byte, s string) bool {
	return len(b) == len(s) && bytes.EqualFold(b, []byte(s))
}

// strip removes the tokens that the upstream must not see: those of all places but that of the verified one, and that one unless it is to be forwarded.
func (p *Policy) strip(r *policies.Request, f *found) {
	for i := range p.places {
		at := &p.places[i]
		if f.there&(1<<i) == 0 || f.raw != nil && i == f.chosen && at.forward {
			continue
		}
		switch at.kind {
		case inHeader:
			r.RemoveHeader(at.name)
		case inCookie:
			r.RemoveCookie(at.name)
		case inQuery:
			r.RemoveQuery(at.name)
		}
	}
}
