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
	if !ok {
		return errors.New("a text is not valid UTF-8")
	}
	return nil
}
