package jwtvalidation

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/invopop/jsonschema"

	"github.com/policy-engine/policy-engine/fastpath/headername"
	"github.com/policy-engine/policy-engine/policies"
)

// Params are the policy's parameters.
type Params struct {
	Issuer          Names             `json:"issuer" jsonschema:"description=Name of a token issuer in the worker's configuration (jwt_issuers) or a list of such."`
	Audience        []string          `json:"audience,omitempty" jsonschema:"description=Values of aud of which the token must have one. Empty: aud is not checked."`
	Algorithms      []string          `json:"algorithms,omitempty" jsonschema:"description=Signature algorithms that are taken. Default: RS256 ES256 PS256 EdDSA.,enum=RS256,enum=RS384,enum=RS512,enum=PS256,enum=PS384,enum=PS512,enum=ES256,enum=ES384,enum=ES512,enum=EdDSA"`
	HeaderName      string            `json:"header_name,omitempty" jsonschema:"default=Authorization,description=Header that carries the token."`
	Scheme          string            `json:"scheme,omitempty" jsonschema:"default=Bearer,description=Scheme before the token. Empty: the header is the token."`
	RequiredScopes  []string          `json:"required_scopes,omitempty" jsonschema:"description=Scopes that the token must have; all of them."`
	RequiredClaims  map[string]any    `json:"required_claims,omitempty" jsonschema:"description=Claims that the token must have: each with its value or a list of legal values."`
	ClaimsToHeaders map[string]string `json:"claims_to_headers,omitempty" jsonschema:"description=Request headers that tell the upstream claims: the claim's name and the header's. Default: {sub: X-User-ID}."`
	Leeway          policies.Duration `json:"leeway,omitempty" jsonschema:"type=string,default=30s,description=How far the clocks of issuer and engine may differ."`
	RequireExpiry   bool              `json:"require_expiry,omitempty" jsonschema:"default=true,description=Refuse tokens that do not expire."`
	ForwardToken    bool              `json:"forward_token,omitempty" jsonschema:"default=true,description=Let the upstream see the token."`
}

// Defaults sets what the configuration leaves out, but for what is a list or a map: decoding into those would add to them.
func (p *Params) Defaults() {
	*p = Params{
		HeaderName:    "Authorization",
		Scheme:        "Bearer",
		Leeway:        policies.Duration(30 * time.Second),
		RequireExpiry: true,
		ForwardToken:  true,
	}
}

// defaultCollections sets the defaults of lists and maps that the configuration leaves out, after decoding. An empty map stays empty.
func (p *Params) defaultCollections() {
	if p.Algorithms == nil {
		p.Algorithms = []string{"RS256", "ES256", "PS256", "EdDSA"}
	}
	if p.ClaimsToHeaders == nil {
		p.ClaimsToHeaders = map[string]string{"sub": "X-User-ID"}
	}
}

// Names is one name or a list of names.
type Names []string

// UnmarshalJSON takes a string or a list of strings.
func (n *Names) UnmarshalJSON(text []byte) error {
	var one string
	if err := json.Unmarshal(text, &one); err == nil {
		*n = Names{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(text, &many); err != nil {
		return policies.BadParam("issuer", "%s is not legal here; want a name or a list of names", text)
	}
	*n = many
	return nil
}

// JSONSchema is for editors.
func (Names) JSONSchema() *jsonschema.Schema {
	name := &jsonschema.Schema{Type: "string"}
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{name, {Type: "array", Items: name}}}
}

const maxLeeway = 10 * time.Minute

// check tells all that is wrong with the parameters.
func (p *Params) check() error {
	var errs []error
	bad := func(param, format string, args ...any) {
		errs = append(errs, policies.BadParam(param, format, args...))
	}
	if len(p.Issuer) == 0 {
		bad("issuer", "missing; legal is the name of a token issuer in the worker's configuration, or a list of names")
	}
	for i, a := range p.Audience {
		if a == "" {
			bad(fmt.Sprintf("audience[%d]", i), "empty; legal is a value of aud")
		}
	}
	if len(p.Algorithms) == 0 {
		bad("algorithms", "empty; legal are %s", algorithmNames())
	}
	for i, a := range p.Algorithms {
		if findAlgorithm(a) == nil {
			bad(fmt.Sprintf("algorithms[%d]", i), "%q is not legal here; legal are %s", a, algorithmNames())
		}
	}
	if err := headerName(p.HeaderName, "Authorization"); err != nil {
		bad("header_name", "%v", err)
	}
	if p.Scheme != "" && policies.CheckHeader(p.Scheme, "") != nil {
		bad("scheme", "%q is no scheme; legal is a token (RFC 9110 section 11.1), or an empty one", p.Scheme)
	}
	for i, s := range p.RequiredScopes {
		if !isScope(s) {
			bad(fmt.Sprintf("required_scopes[%d]", i), "%q is no scope; legal are visible ASCII characters without quotes and backslashes", s)
		}
	}
	if p.Leeway < 0 || time.Duration(p.Leeway) > maxLeeway {
		bad("leeway", "%v is not legal here; legal are 0s to %v", time.Duration(p.Leeway), maxLeeway)
	}
	errs = append(errs, p.checkTargets()...)
	_, err := requirements(p.RequiredClaims)
	return errors.Join(append(errs, err)...)
}

func (p *Params) checkTargets() (errs []error) {
	seen := map[string]string{headername.Fold(p.HeaderName): ""}
	for _, claim := range slices.Sorted(maps.Keys(p.ClaimsToHeaders)) {
		header, param := p.ClaimsToHeaders[claim], "claims_to_headers."+claim
		if err := ownedHeader(header); err != nil {
			errs = append(errs, policies.BadParam(param, "%v", err))
		}
		if other, taken := seen[headername.Fold(header)]; taken && other == "" {
			errs = append(errs, policies.BadParam(param, "%q carries the token; legal is another header", header))
		} else if taken {
			errs = append(errs, policies.BadParam(param, "%q carries %q already; legal is a header of its own for each claim", header, other))
		}
		seen[headername.Fold(header)] = claim
	}
	return errs
}

// requirement is a claim that a token must have, with its legal values: strings, int64s and bools.
type requirement struct {
	claim string
	legal []any
}

// requirements reads required_claims.
func requirements(claims map[string]any) ([]requirement, error) {
	var all []requirement
	var errs []error
	for _, claim := range slices.Sorted(maps.Keys(claims)) {
		values, ok := claims[claim].([]any)
		if !ok {
			values = []any{claims[claim]}
		}
		req := requirement{claim: claim}
		for _, v := range values {
			switch v := v.(type) {
			case string, bool:
				req.legal = append(req.legal, v)
				continue
			case float64:
				// Beyond that, numbers that differ have the same float64.
				if v == math.Trunc(v) && math.Abs(v) <= maxInteger {
					req.legal = append(req.legal, int64(v))
					continue
				}
			}
			errs = append(errs, policies.BadParam("required_claims."+claim, "%v is not legal here; legal are strings, integers up to 2^53-1, true, false, or a list of them", v))
		}
		if len(values) == 0 {
			errs = append(errs, policies.BadParam("required_claims."+claim, "an empty list; legal is a value or a list of values"))
		}
		all = append(all, req)
	}
	return all, errors.Join(errs...)
}

const maxInteger = 1<<53 - 1

// notOurs are headers that carry something else, which a policy that sets them would break.
var notOurs = []string{"cookie", "content-length", "content-type", "transfer-encoding", "connection", "te", "upgrade", "x-request-id", "x-forwarded-for"}

func headerName(header, example string) error {
	if err := policies.CheckHeader(header, ""); err != nil {
		return fmt.Errorf("%w; legal is a header name such as %s", err, example)
	}
	if slices.Contains(notOurs, strings.ToLower(header)) {
		return fmt.Errorf("%q has another meaning; legal is a header of its own, such as %s", header, example)
	}
	return nil
}

func ownedHeader(header string) error {
	if err := headerName(header, "X-User-ID"); err != nil {
		return err
	}
	return policies.CheckOwnedHeader(header)
}

func algorithmNames() string {
	var names []string
	for _, a := range algorithms {
		names = append(names, a.name)
	}
	return strings.Join(names, ", ")
}

// isScope tells scope tokens (RFC 6749 section 3.3).
func isScope(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '\\' })
}
