package rig

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/closedloop"
	"github.com/policy-engine/policy-engine/loadtest/credentials"
)

// Path is where the client's requests go.
func Path(prefix string, client int) string { return prefix + "/" + credentials.Identity(client) }

// Paths are the prefixes below which requests are on a route with the chain.
func (r *Rig) Paths() []string { return r.spec.paths() }

// Requests are one request for each of the tokens, which must be those of c from token first on, with the keys of the same clients.
func (r *Rig) Requests(c *credentials.Set, first, n int) []closedloop.Request {
	paths := r.spec.paths()
	out := make([]closedloop.Request, n)
	for i := range out {
		client := (first + i) % len(c.Keys)
		out[i] = r.spec.request(Path(paths[i%len(paths)], client), client, c.Keys[client], c.Tokens[first+i])
	}
	return out
}

// request is one that has to be answered with 200; where the upstream gets the client's identity, with that.
func (s *Spec) request(path string, client int, key, token string, more ...string) closedloop.Request {
	r := closedloop.Request{Bytes: head(path, key, token, more...), Status: http.StatusOK}
	if s.Identifies() {
		r.Contains = []byte("\r\n" + EchoHeader + ": " + credentials.Identity(client) + "\r\n")
	}
	return r
}

func head(path, key, token string, more ...string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nhost: api.example\r\nuser-agent: loadtest\r\naccept: */*\r\n", path)
	if key != "" {
		fmt.Fprintf(&b, "x-api-key: %s\r\n", key)
	}
	if token != "" {
		fmt.Fprintf(&b, "authorization: Bearer %s\r\n", token)
	}
	for _, line := range more {
		b.WriteString(line + "\r\n")
	}
	b.WriteString("\r\n")
	return []byte(b.String())
}

// attempts are requests that try to get through: what lets one pass must not be measured.
func (s *Spec) attempts(c *credentials.Set) (map[string]closedloop.Request, error) {
	path, key, token := Path(s.paths()[0], 0), c.Keys[0], c.Tokens[0]
	refused := func(key, token string) closedloop.Request {
		return closedloop.Request{Bytes: head(path, key, token), Status: http.StatusUnauthorized}
	}
	all := map[string]closedloop.Request{}
	if s.enforces("apiKeyAuth") {
		all["a request without a key"] = refused("", token)
		all["a request with an unknown key"] = refused("guess", token)
	}
	if s.enforces("jwtValidation") {
		forged, err := c.Forged()
		if err != nil {
			return nil, err
		}
		all["a request without a token"] = refused(key, "")
		all["a request with a forged token"] = refused(key, forged)
	}
	if s.Identifies() {
		all["a request with another's identity"] = s.request(path, 0, key, token, IdentityHeader+": "+credentials.Identity(1))
	}
	return all, nil
}

// Verify sends a request of every client, whose answer has to tell its identity where there is one, and requests that must not get through. The error
// tells of the first that was answered otherwise.
func (r *Rig) Verify(ctx context.Context, c *credentials.Set) error {
	all, err := r.spec.attempts(c)
	if err != nil {
		return err
	}
	for name, attempt := range all {
		if err := r.once(ctx, name, attempt); err != nil {
			return err
		}
	}
	return r.once(ctx, "a client's request", r.Requests(c, 0, len(c.Keys))...)
}

// once sends each request once.
func (r *Rig) once(ctx context.Context, name string, requests ...closedloop.Request) error {
	load := &closedloop.Load{Target: r.Target, Connections: min(len(requests), 8), Requests: requests, Once: true}
	result, err := closedloop.Run(ctx, load, time.Minute)
	if err != nil {
		return err
	}
	if done := int(result.Latencies.Count()); done != len(requests) {
		return fmt.Errorf("%s: %d of %d answered as they have to be: %s %s", name, done, len(requests), result.Mistake, result.Failure)
	}
	return nil
}
