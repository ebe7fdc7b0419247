package apikeyauth

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

// check tells all that is wrong with the parameters.
func (p *Params) check() error {
	var errs []error
	if p.KeyStore == "" {
		errs = append(errs, policies.BadParam("key_store", "missing; legal is the name of a key store in the worker's configuration"))
	}
	if p.HeaderName == "" && p.QueryParam == "" && p.CookieName == "" {
		errs = append(errs, policies.BadParam("header_name", "empty, and so are query_param and cookie_name; legal is one of them at least"))
	}
	if p.HeaderName != "" {
		if err := headerName(p.HeaderName); err != nil {
			errs = append(errs, policies.BadParam("header_name", "%v", err))
		}
	}
	if p.IdentityHeader != "" {
		if err := ownedHeader(p.IdentityHeader); err != nil {
			errs = append(errs, policies.BadParam("identity_header", "%v", err))
		}
		if policies.SameHeader(p.IdentityHeader, p.HeaderName) {
			errs = append(errs, policies.BadParam("identity_header", "the same as header_name; legal is another header"))
		}
	}
	if i := strings.IndexFunc(p.QueryParam, func(c rune) bool { return c <= ' ' || c >= 0x7f }); i >= 0 {
		errs = append(errs, policies.BadParam("query_param", "%q is no name; legal are visible ASCII characters", p.QueryParam))
	}
	// RFC 6265 section 4.1.1: a cookie's name is a token, as a header's is.
	if p.CookieName != "" && (strings.ContainsAny(p.CookieName, "=;,") || policies.CheckHeader("x-"+p.CookieName, "") != nil) {
		errs = append(errs, policies.BadParam("cookie_name", "%q is no cookie name; legal are letters, digits and !#$%%&'*+-.^_`|~", p.CookieName))
	}
	for i, scope := range p.Scopes {
		if scope == "" || strings.ContainsFunc(scope, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '\\' }) {
			errs = append(errs, policies.BadParam(fmt.Sprintf("scopes[%d]", i), "%q is no scope; legal are visible ASCII characters without quotes and backslashes", scope))
		}
	}
	return errors.Join(errs...)
}

// notOurs are headers that carry something else, which a policy that takes them away or sets them would break.
var notOurs = []string{"cookie", "content-length", "content-type", "transfer-encoding", "connection", "te", "upgrade", "x-request-id", "x-forwarded-for"}

func headerName(header string) error {
	if err := policies.CheckHeader(header, ""); err != nil {
		return fmt.Errorf("%w; legal is a header name such as X-API-Key", err)
	}
	if slices.Contains(notOurs, strings.ToLower(header)) {
		return fmt.Errorf("%q has another meaning; legal is a header of its own, such as X-API-Key", header)
	}
	return nil
}

func ownedHeader(header string) error {
	if err := headerName(header); err != nil {
		return err
	}
	return policies.CheckOwnedHeader(header)
}
