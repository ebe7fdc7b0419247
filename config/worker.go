package config

import "github.com/policy-engine/policy-engine/config/internal/document"

func (c *checker) worker(d *document.PolicyWorker) *Worker {
	w := &Worker{
		File:                  c.file,
		Name:                  string(d.Name),
		SocketPath:            string(d.SocketPath),
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
		w.JWTIssuers = append(w.JWTIssuers, JWTIssuer{
			Name: string(e.Key), Issuer: j.Issuer, JWKSURI: string(j.JWKSURI), JWKSFile: j.JWKSFile, Pos: Pos(e.Pos),
		})
	}
	return w
}
