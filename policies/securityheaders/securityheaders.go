// Package securityheaders is the policy securityHeaders: it sets the response headers that make browsers careful.
package securityheaders

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

const (
	name    = "securityHeaders"
	version = "1.0.0"
)

// Params are the policy's parameters. An empty value switches a header off.
type Params struct {
	Override                  bool     `json:"override,omitempty" jsonschema:"default=true,description=Replace what the upstream sent. False: only add what it did not send."`
	StrictTransportSecurity   string   `json:"strict_transport_security,omitempty" jsonschema:"default=max-age=31536000; includeSubDomains,description=Strict-Transport-Security (RFC 6797). Sent over https only."`
	ContentTypeOptions        string   `json:"content_type_options,omitempty" jsonschema:"default=nosniff,description=X-Content-Type-Options."`
	FrameOptions              string   `json:"frame_options,omitempty" jsonschema:"default=DENY,description=X-Frame-Options: DENY or SAMEORIGIN."`
	ReferrerPolicy            string   `json:"referrer_policy,omitempty" jsonschema:"default=strict-origin-when-cross-origin,description=Referrer-Policy."`
	ContentSecurityPolicy     string   `json:"content_security_policy,omitempty" jsonschema:"description=Content-Security-Policy."`
	PermissionsPolicy         string   `json:"permissions_policy,omitempty" jsonschema:"description=Permissions-Policy."`
	CrossOriginOpenerPolicy   string   `json:"cross_origin_opener_policy,omitempty" jsonschema:"default=same-origin,description=Cross-Origin-Opener-Policy."`
	CrossOriginResourcePolicy string   `json:"cross_origin_resource_policy,omitempty" jsonschema:"default=same-origin,description=Cross-Origin-Resource-Policy."`
	CrossOriginEmbedderPolicy string   `json:"cross_origin_embedder_policy,omitempty" jsonschema:"description=Cross-Origin-Embedder-Policy."`
	Remove                    []string `json:"remove,omitempty" jsonschema:"description=Headers to take away."`
}

// Defaults sets what the configuration leaves out.
func (p *Params) Defaults() {
	*p = Params{
		Override:                  true,
		StrictTransportSecurity:   "max-age=31536000; includeSubDomains",
		ContentTypeOptions:        "nosniff",
		FrameOptions:              "DENY",
		ReferrerPolicy:            "strict-origin-when-cross-origin",
		ContentSecurityPolicy:     "default-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
		PermissionsPolicy:         "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
		CrossOriginOpenerPolicy:   "same-origin",
		CrossOriginResourcePolicy: "same-origin",
		Remove:                    []string{"server", "x-powered-by"},
	}
}

// Definition returns the policy's entry for a worker's registry.
func Definition() policies.Definition { return policies.Define(name, version, build) }

// Policy is securityHeaders at one place of the configuration.
type Policy struct {
	override  bool
	transport string // Strict-Transport-Security; empty: off
	headers   []policies.Header
	remove    []string
}

// A Strict-Transport-Security without max-age is ignored by browsers (RFC 6797 section 6.1.1).
var transportSecurity = regexp.MustCompile(`(?i)^max-age=[0-9]{1,12}( *; *(includeSubDomains|preload))*$`)

// The values that browsers know: others are ignored by them, in silence.
var known = map[string][]string{
	"x-content-type-options": {"nosniff"},
	"x-frame-options":        {"DENY", "SAMEORIGIN"},
	"referrer-policy": {
		"no-referrer", "no-referrer-when-downgrade", "origin", "origin-when-cross-origin", "same-origin", "strict-origin", "strict-origin-when-cross-origin", "unsafe-url",
	},
	"cross-origin-opener-policy":   {"same-origin", "same-origin-allow-popups", "noopener-allow-popups", "unsafe-none"},
	"cross-origin-resource-policy": {"same-site", "same-origin", "cross-origin"},
	"cross-origin-embedder-policy": {"require-corp", "credentialless", "unsafe-none"},
}

const transportHeader = "strict-transport-security"

func build(_ policies.Env, params Params) (*Policy, error) {
	p := &Policy{override: params.Override, transport: params.StrictTransportSecurity}
	var problems []error
	bad := func(param, format string, args ...any) {
		problems = append(problems, policies.BadParam(param, format, args...))
	}
	if p.transport != "" && !transportSecurity.MatchString(p.transport) {
		bad("strict_transport_security", "%q is not legal; legal is max-age=SECONDS, with ; includeSubDomains and ; preload if wanted", p.transport)
	}
	for _, h := range []struct{ param, header, value string }{
		{"content_type_options", "x-content-type-options", params.ContentTypeOptions},
		{"frame_options", "x-frame-options", params.FrameOptions},
		{"referrer_policy", "referrer-policy", params.ReferrerPolicy},
		{"content_security_policy", "content-security-policy", params.ContentSecurityPolicy},
		{"permissions_policy", "permissions-policy", params.PermissionsPolicy},
		{"cross_origin_opener_policy", "cross-origin-opener-policy", params.CrossOriginOpenerPolicy},
		{"cross_origin_resource_policy", "cross-origin-resource-policy", params.CrossOriginResourcePolicy},
		{"cross_origin_embedder_policy", "cross-origin-embedder-policy", params.CrossOriginEmbedderPolicy},
	} {
		if h.value == "" {
			continue
		}
		if values := known[h.header]; values != nil && !slices.Contains(values, h.value) {
			bad(h.param, "%q is not legal; legal are %s, and nothing, which switches the header off", h.value, strings.Join(values, ", "))
		}
		if err := policies.CheckHeader(h.header, h.value); err != nil {
			bad(h.param, "%v", err)
		}
		p.headers = append(p.headers, policies.Header{Name: h.header, Value: h.value})
	}
	for _, header := range params.Remove {
		header = strings.ToLower(header)
		if err := policies.CheckHeader(header, ""); err != nil {
			bad("remove", "%v", err)
		}
		set := func(h policies.Header) bool { return h.Name == header }
		if slices.ContainsFunc(p.headers, set) || header == transportHeader && p.transport != "" {
			bad("remove", "%q is set by this policy; switch it off by its own parameter", header)
		}
		p.remove = append(p.remove, header)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return p, nil
}

// OnResponseHeaders sets the headers.
func (p *Policy) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	for _, header := range p.remove {
		r.RemoveHeader(header)
	}
	// RFC 6797 section 7.2 forbids it on connections that are not secure.
	if p.transport != "" && bytes.Equal(r.Request().Scheme(), []byte("https")) {
		p.set(r, transportHeader, p.transport)
	}
	for i := range p.headers {
		p.set(r, p.headers[i].Name, p.headers[i].Value)
	}
	return policies.Continue(), nil
}

func (p *Policy) set(r *policies.Response, header, value string) {
	if !p.override {
		if _, n := r.Header(header); n > 0 {
			return
		}
	}
	r.SetHeader(header, value)
}

var _ policies.ResponseHeaders = (*Policy)(nil)
