package jwtvalidation

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/policies"
)

// never is the expiry of tokens that have none.
const never = math.MaxInt64

// lifetime is when a token is good, without leeway, in milliseconds since 1970.
type lifetime struct {
	notBefore int64 // the later one of nbf and iat; math.MinInt64 if there is neither
	expires   int64 // never if there is no exp
}

// readLifetime reads exp, nbf and iat (RFC 7519 section 4.1).
func readLifetime(c object) (lifetime, error) {
	l := lifetime{notBefore: math.MinInt64, expires: never}
	if v, present := c["exp"]; present {
		exp, ok := numericDate(v)
		if !ok {
			return l, errors.New("exp is not a time")
		}
		l.expires = exp
	}
	// A token that was issued in the future is one from a wrong clock, or for later use: no good now, as with nbf.
	for _, name := range []string{"nbf", "iat"} {
		if v, present := c[name]; present {
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
func numericDate(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	seconds, err := strconv.ParseFloat(n.String(), 64)
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

// audienceFits reports whether aud (a string or a list of strings; RFC 7519 section 4.1.3) has one of legal.
func audienceFits(aud any, legal []string) bool {
	switch aud := aud.(type) {
	case string:
		return slices.Contains(legal, aud)
	case []any:
		fits := false
		for _, a := range aud {
			s, ok := a.(string)
			if !ok {
				return false
			}
			fits = fits || slices.Contains(legal, s)
		}
		return fits
	}
	return false
}

// readScopes reads scope (RFC 8693 section 4.2: a string with spaces) and scp, which some issuers write, each as a string or a list of strings.
func readScopes(c object) ([]string, error) {
	var scopes []string
	for _, name := range []string{"scope", "scp"} {
		switch v := c[name].(type) {
		case nil:
		case string:
			scopes = append(scopes, strings.Fields(v)...)
		case []any:
			for _, e := range v {
				s, ok := e.(string)
				if !ok {
					return nil, errors.New(name + " has an element that is not a string")
				}
				scopes = append(scopes, s)
			}
		default:
			return nil, errors.New(name + " is neither a string nor a list")
		}
	}
	return scopes, nil
}

// met reports whether the claim has a legal value, or is a list that has one.
func (r *requirement) met(c object) bool {
	value, present := c[r.claim]
	if !present {
		return false
	}
	if list, ok := value.([]any); ok {
		return slices.ContainsFunc(list, r.isLegal)
	}
	return r.isLegal(value)
}

func (r *requirement) isLegal(value any) bool {
	if n, ok := value.(json.Number); ok {
		f, err := strconv.ParseFloat(n.String(), 64)
		if err != nil || f != math.Trunc(f) || math.Abs(f) > maxInteger {
			return false
		}
		value = int64(f)
	}
	switch value.(type) {
	case string, bool, int64:
		return slices.Contains(r.legal, value)
	}
	return false
}

// text returns a claim as a text that a header can carry unchanged, empty if the token does not have it. Others are an error: an upstream
// that misreads who the client is would be worse than a refusal.
func text(c object, claim string) (string, error) {
	switch v := c[claim].(type) {
	case nil:
		if _, present := c[claim]; present {
			return "", errors.New(claim + " is null")
		}
		return "", nil
	case string:
		if !headerText(v) {
			return "", errors.New(claim + " has characters that a header can't carry")
		}
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		return strconv.FormatBool(v), nil
	}
	return "", errors.New(claim + " is a list or an object")
}

// headerText takes printable ASCII without space at the ends, which HTTP/1.1 would take away (RFC 9110 section 5.5).
func headerText(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s == strings.Trim(s, " ")
}

// facts returns the text of the claims of these names that the token has.
func facts(c object, names []string) ([]policies.Entry, error) {
	var entries []policies.Entry
	for _, name := range names {
		value, err := text(c, name)
		if err != nil {
			return nil, err
		}
		if value != "" {
			entries = append(entries, policies.Entry{Key: name, Value: value})
		}
	}
	return entries, nil
}
