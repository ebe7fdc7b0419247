package jwtvalidation

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/policy-engine/policy-engine/policies"
)

// never is the expiry of tokens that have none.
const never = math.MaxInt64

// lifetime is when a token is valid, without leeway, in milliseconds since 1970.
type lifetime struct {
	notBefore int64 // the later one of nbf and iat; math.MinInt64 if there is neither
	expires   int64 // never if there is no exp
}

// readLifetime reads exp, nbf and iat (RFC 7519 section 4.1).
func readLifetime(c *policies.ClaimsSet) (lifetime, error) {
	l := lifetime{notBefore: math.MinInt64, expires: never}
	if v := c.Root().Member("exp"); v.Kind() != policies.ClaimAbsent {
		exp, ok := numericDate(v)
		if !ok {
			return l, errors.New("exp is not a time")
		}
		l.expires = exp
	}
	// A token that was issued in the future is one from a wrong clock, or for later use: not valid now, as with nbf.
	for _, name := range []string{"nbf", "iat"} {
		if v := c.Root().Member(name); v.Kind() != policies.ClaimAbsent {
			at, ok := numericDate(v)
			if !ok {
				return l, errors.New(name + " is not a time")
			}
			l.notBefore = max(l.notBefore, at)
		}
	}
	return l, nil
}

// maxDate is the end of the year 9999, in seconds.
const maxDate = 253402300799

// numericDate takes a NumericDate (RFC 7519 section 2): seconds, maybe with a fraction. It returns milliseconds.
func numericDate(v policies.ClaimValue) (int64, bool) {
	text, _ := v.Text()
	if v.Kind() != policies.ClaimNumber {
		return 0, false
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || math.Abs(seconds) > maxDate {
		return 0, false
	}
	return int64(math.Floor(seconds * 1000)), true
}

func (l *lifetime) expired(now time.Time, leeway time.Duration) bool {
	// The leeway goes to now's side: exp may be as large as it gets.
	return now.Add(-leeway).UnixMilli() >= l.expires
}

func (l *lifetime) begun(now time.Time, leeway time.Duration) bool {
	return now.Add(leeway).UnixMilli() >= l.notBefore
}

// audienceFits reports whether aud (a string or a list of strings; RFC 7519 section 4.1.3) has one of the accepted values.
func audienceFits(aud policies.ClaimValue, accepted []string) bool {
	if aud.Kind() != policies.ClaimList {
		s, _ := aud.Text()
		return aud.Kind() == policies.ClaimString && slices.Contains(accepted, s)
	}
	fits := false
	for _, a := range aud.All() {
		if a.Kind() != policies.ClaimString {
			return false
		}
		s, _ := a.Text()
		fits = fits || slices.Contains(accepted, s)
	}
	return fits
}

// readScopes reads scope (RFC 8693 section 4.2: a string with spaces) and scp, which some issuers write, each as a string or a list of strings.
func readScopes(c *policies.ClaimsSet) ([]string, error) {
	var scopes []string
	for _, name := range []string{"scope", "scp"} {
		v := c.Root().Member(name)
		switch v.Kind() {
		case policies.ClaimAbsent, policies.ClaimNull:
		case policies.ClaimString:
			s, _ := v.Text()
			scopes = scopesOf(scopes, s)
		case policies.ClaimList:
			for _, e := range v.All() {
				if e.Kind() != policies.ClaimString {
					return nil, errors.New(name + " has an element that is not a string")
				}
				s, _ := e.Text()
				scopes = append(scopes, s)
			}
		default:
			return nil, errors.New(name + " is neither a string nor a list")
		}
	}
	return scopes, nil
}

// readSubject returns the subject: the first of the claims that the token has.
func readSubject(c *policies.ClaimsSet, claims Paths) (policies.ClaimValue, error) {
	v := claims.first(c)
	s, _ := v.Text()
	switch {
	case v.Kind() != policies.ClaimString:
		return v, errors.New("no subject, or one that is not a string")
	case s == "" || strings.ContainsFunc(s, unicode.IsControl):
		return v, errors.New("the subject is empty or has control characters")
	}
	return v, nil
}
