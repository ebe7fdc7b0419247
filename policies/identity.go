package policies

import (
	"errors"
	"unicode/utf8"
)

// Identity is who makes the request, as an authentication policy established it. It travels to all later policies, on
// whichever worker, and into the response phase. One that Request.Identity returns is valid only during the call, and so are its slices; its strings may be kept.
type Identity struct {
	// Subject names the client: a key's id, a token's sub. Never a secret. Not empty.
	Subject string
	// Method is the name of the policy that established the identity.
	Method string
	// Issuer is who vouches for it, such as a token's iss; may be empty.
	Issuer string
	// Scopes are what the client may do. Read only: the slice may be shared by many requests.
	Scopes []string
	// Claims are further facts, as text. Read only, like Scopes.
	Claims []Entry

	// set is the claims set, carried what an earlier call had in its place: most requests never ask for it.
	set     *ClaimsSet
	carried string
}

// WithClaimsSet returns id with all claims of the credential, for later policies on any worker.
func (id Identity) WithClaimsSet(s *ClaimsSet) Identity {
	id.set, id.carried = s, ""
	return id
}

// ClaimsSet returns all claims of the credential, nil if the policy that established the identity has not set them. Claims, in contrast,
// has only those that the policy was configured to put there. What it returns may be kept.
func (id *Identity) ClaimsSet() *ClaimsSet {
	if id.set == nil && id.carried != "" {
		id.set, _ = parseClaims(id.carried)
	}
	return id.set
}

// CarriedClaims returns the claims set as JSON, empty if there is none. It is for the worker core.
func (id *Identity) CarriedClaims() string {
	if id.set != nil {
		return id.set.JSON()
	}
	return id.carried
}

// WithCarriedClaims returns id with the claims set that CarriedClaims returned in an earlier call. It is for the worker core.
func (id Identity) WithCarriedClaims(text string) Identity {
	id.set, id.carried = nil, text
	return id
}

// Entry is a key with its value.
type Entry struct {
	Key   string
	Value string
}

// HasScope reports whether scope is among the identity's scopes.
func (id *Identity) HasScope(scope string) bool {
	for _, s := range id.Scopes {
		if s == scope {
			return true
		}
	}
	return false
}

// Claim returns the value of a claim, and whether there is one.
func (id *Identity) Claim(key string) (string, bool) {
	for _, c := range id.Claims {
		if c.Key == key {
			return c.Value, true
		}
	}
	return "", false
}

// ClaimAt returns the claim at the path as text, lists and objects as JSON, and whether there is one that is not null. It looks into the
// claims set first, and then, by the path's text, into Claims.
func (id *Identity) ClaimAt(path ClaimPath) (string, bool) {
	switch v := id.ClaimsSet().Get(path); v.Kind() {
	case ClaimAbsent:
		return id.Claim(path.String())
	case ClaimNull:
		return "", false
	case ClaimList, ClaimObject:
		return string(v.AppendJSON(nil)), true
	default:
		return v.Text()
	}
}

// check tells what the worker protocol can't carry: its strings are UTF-8.
func (id *Identity) check() error {
	if id.Subject == "" {
		return errors.New("the subject is empty")
	}
	ok := utf8.ValidString(id.Subject) && utf8.ValidString(id.Method) && utf8.ValidString(id.Issuer)
	for _, s := range id.Scopes {
		ok = ok && utf8.ValidString(s)
	}
	for _, c := range id.Claims {
		ok = ok && utf8.ValidString(c.Key) && utf8.ValidString(c.Value)
	}
	if !ok || !utf8.ValidString(id.carried) { // A ClaimsSet is always valid.
		return errors.New("a text is not valid UTF-8")
	}
	if len(id.carried) > MaxClaimsSize {
		return errors.New("the claims set is too large")
	}
	return nil
}
