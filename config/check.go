package config

import (
	"fmt"
	"time"

	"github.com/policy-engine/policy-engine/config/internal/document"
	"github.com/policy-engine/policy-engine/config/internal/strict"
)

// checker makes values of a document, and tells what is wrong between its keys. A value that the decoder refused is the zero value: the checks
// pass over it, because its mistake is told.
type checker struct {
	file string
	errs Errors
	// warnings are what is valid and probably not meant.
	warnings Errors
	// origins are the variables that values of the file have in them: messages name them, and do not show their values.
	origins strict.Origins
}

func (c *checker) add(problems []strict.Problem) {
	for _, p := range problems {
		c.errs = append(c.errs, Error{Pos(p.Pos), p.Text})
	}
}

func (c *checker) fail(pos strict.Pos, format string, args ...any) {
	c.errs = append(c.errs, Error{Pos(pos), c.origins.Hide(pos.Path, fmt.Sprintf(format, args...))})
}

// names refuses what is there twice.
type names map[string]strict.Pos

func (n names) add(c *checker, name string, pos strict.Pos, what string) {
	if name == "" {
		return
	}
	if first, ok := n[name]; ok {
		c.fail(pos, "%q is there twice, first in line %d; %s", name, first.Line, what)
		return
	}
	n[name] = pos
}

func (c *checker) server(d *document.Server, admin *document.Admin) Server {
	s := Server{
		Address:               string(d.Address),
		Port:                  d.Port,
		SocketPath:            string(d.SocketPath),
		Transport:             Transport(d.Transport),
		MaxConcurrentStreams:  uint32(d.MaxConcurrentStreams),
		MaxConnections:        d.MaxConnections,
		MaxConnectionsPerPeer: d.MaxConnectionsPerPeer,
		MaxMemory:             int64(d.MaxMemory),
		HandshakeTimeout:      time.Duration(d.HandshakeTimeout),
		TLS:                   TLS{CertFile: d.TLS.CertFile, KeyFile: d.TLS.KeyFile, ClientCAFile: d.TLS.ClientCAFile},
	}
	if d.Has("max_memory") && d.MaxMemory > 0 && d.MaxMemory < leastMemory {
		c.fail(d.At("max_memory"), "must be at least %v, or 0B to derive it from the memory limit, got %v", leastMemory, d.MaxMemory)
	}
	if d.Has("socket_path") {
		s.Address, s.Port = "", 0
		for _, key := range []string{"address", "port"} {
			if d.Has(key) {
				c.fail(d.At(key), "stands beside socket_path; legal is one of them")
			}
		}
	} else if s.Port == admin.Port && (s.Address == string(admin.Address) || wildcard(s.Address) || wildcard(string(admin.Address))) {
		c.fail(d.At("port"), "%d is the port of policy_kernel.admin too; legal is another one", s.Port)
	}
	t := &d.TLS
	switch {
	case t.CertFile != "" && t.KeyFile == "":
		c.fail(t.At("key_file"), "is missing or empty beside cert_file; legal are both or none")
	case t.CertFile == "" && t.KeyFile != "":
		c.fail(t.At("cert_file"), "is missing or empty beside key_file; legal are both or none")
	case t.CertFile == "" && t.ClientCAFile != "":
		c.fail(t.At("client_ca_file"), "stands without cert_file and key_file; legal is with them")
	}
	return s
}

// leastMemory is what connections need to be of use.
const leastMemory = strict.Size(16 << 20)

func wildcard(address string) bool { return address == "0.0.0.0" || address == "::" }

func (c *checker) immediateResponse(d *document.ImmediateResponse) ImmediateResponse {
	r := ImmediateResponse{Status: d.StatusCode, Body: []byte(d.Body)}
	seen := names{}
	for _, h := range d.Headers {
		seen.add(c, string(h.Key), h.Pos, "names are the same in upper and lower case")
		r.Headers = append(r.Headers, Header{Name: string(h.Key), Value: string(h.Value)})
	}
	return r
}
