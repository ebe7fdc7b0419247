package jsonschemavalidation

import (
	"fmt"
	"slices"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

// methods are the request methods that the policy applies to; nil: all.
type methods []string

// safe are the methods whose content means nothing (RFC 9110 section 9.3). Servers read it nevertheless.
var safe = []string{"GET", "HEAD", "OPTIONS", "TRACE"}

// known are the methods that the policy may leave alone. What a server makes of any other is not known.
var known = append([]string{"DELETE", "PATCH", "POST", "PUT"}, safe...)

// overrides are the headers by which a client asks servers for another method than that of the request line.
var overrides = []string{"x-http-method-override", "x-http-method", "x-method-override"}

func (m methods) check() error {
	if m != nil && len(m) == 0 {
		return fmt.Errorf("it is empty; leave it out for all methods")
	}
	for i, method := range m {
		switch {
		case !slices.Contains(known, method):
			return fmt.Errorf("unknown method %q, expected one of %s; all others are always checked", method, strings.Join(slices.Sorted(slices.Values(known)), ", "))
		case slices.Contains(m[:i], method):
			return fmt.Errorf("%q is there twice", method)
		}
	}
	return nil
}

// apply reports whether the policy applies to a request, or to the response to it. hasBody says that there is a body of
// the request to be checked.
func (m methods) apply(r *policies.Request, hasBody bool) bool {
	if m == nil {
		return true
	}
	method := ""
	for _, k := range known {
		if string(r.Method()) == k {
			method = k
		}
	}
	switch {
	case method == "", slices.Contains(m, method): // Servers may take post for POST.
		return true
	case hasBody && slices.Contains(safe, method):
		return true
	}
	// The server may take the request for one of another method.
	for _, name := range overrides {
		if r.Spellings(name) > 0 {
			return true
		}
	}
	_, n := r.Query("_method")
	return n > 0
}
