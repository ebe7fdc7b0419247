package config

import (
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/config/internal/document"
)

func (c *checker) worker(d *document.PolicyWorker) *Worker {
	w := &Worker{
		File:                  c.file,
		Name:                  string(d.Name),
		SocketPath:            string(d.SocketPath),
		SharedSocketFolder:    d.SharedSocketFolder,
		MaxConcurrentRequests: d.MaxConcurrentRequests,
		ResourceLimits: ResourceLimits{
			MaxBodySize:  int(d.ResourceLimits.MaxBodySize),
			MaxStateSize: int(d.ResourceLimits.MaxStateSize),
		},
		Observability: Observability{LogLevel: string(d.Observability.LogLevel), Tracing: c.tracing(&d.Observability.Tracing)},
	}
	for i := range d.KeyStores {
		e := &d.KeyStores[i]
		w.KeyStores = append(w.KeyStores, KeyStore{Name: string(e.Key), File: e.Value.File, Pos: Pos(e.Pos)})
	}
	for i := range d.JWTIssuers {
		e := &d.JWTIssuers[i]
		j := &e.Value
		w.JWTIssuers = append(w.JWTIssuers, c.jwtIssuer(string(e.Key), j, Pos(e.Pos)))
	}
	return w
}

// maxTenants bounds the issuers that a template stands for: each may have a key set of its own.
const maxTenants = 100

func (c *checker) jwtIssuer(name string, d *document.JWTIssuer, pos Pos) JWTIssuer {
	const tenant = "{tenant}"
	if d.JWKSURI != "" && d.JWKSFile != "" {
		c.fail(d.At("jwks_file"), "stands beside jwks_uri; expected one of them, or none for discovery")
	}
	if d.Has("tenants") != strings.Contains(d.Issuer, tenant) && d.Issuer != "" {
		c.fail(d.At("tenants"), "expected exactly where issuer has {tenant}, got issuer %q", d.Issuer)
	}
	if len(d.Tenants) > maxTenants {
		c.fail(d.At("tenants"), "must have at most %d tenants, got %d", maxTenants, len(d.Tenants))
	}
	if strings.Contains(string(d.JWKSURI), tenant) && !d.Has("tenants") {
		c.fail(d.At("jwks_uri"), "has {tenant}, expected tenants beside it")
	}
	c.warnOfIssuer(d.Issuer, tenant, d.At("issuer"))
	c.warnOfIssuer(string(d.JWKSURI), tenant, d.At("jwks_uri"))
	seen := map[string]bool{}
	for _, t := range d.Tenants {
		if t == "" || strings.ContainsFunc(t, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("/?#%{}", r) }) {
			c.fail(d.At("tenants"), "%q is not a tenant, expected a name that is one segment of a URL's path", t)
		}
		if strings.Contains(t, "*") {
			c.warn(d.At("tenants"), "%q looks like a pattern, and is taken as one tenant; expected the names of tenants", t)
		}
		if seen[t] {
			c.fail(d.At("tenants"), "%q is there twice", t)
		}
		seen[t] = true
	}
	url, key := d.JWKSURI, "jwks_uri"
	if d.JWKSURI == "" && d.JWKSFile == "" && d.Issuer != "" && !d.Has("jwks_uri") && !d.Has("jwks_file") {
		key = "issuer"
		// OpenID Connect Discovery 1.0 section 4: the document's place follows from the issuer.
		if err := url.UnmarshalText([]byte(d.Issuer)); err != nil || strings.Contains(d.Issuer, "?") {
			c.fail(d.At("jwks_uri"), "the key is missing; expected it or jwks_file, or an issuer that is an https URL, for discovery")
		}
	}
	if url.IsPlain() && !d.AllowHTTP {
		c.fail(d.At(key), "%q can be changed on its way, expected https, http to this machine, or allow_http: true", string(url))
	}
	return JWTIssuer{
		Name: name, Issuer: d.Issuer, Tenants: d.Tenants, JWKSURI: string(d.JWKSURI), JWKSFile: d.JWKSFile,
		AllowHTTP: d.AllowHTTP, CAFile: d.TLS.CAFile, Timeout: time.Duration(d.Timeout), Required: d.Required, Pos: pos,
	}
}
