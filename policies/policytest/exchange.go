package policytest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/policies"
)

// Request is a request as Envoy sends it, and what earlier policies made of it.
type Request struct {
	// Route is the route's name; "route" if empty.
	Route string
	// Method is GET if empty.
	Method string
	// Path is "/" if empty.
	Path string
	// Authority is example.com if empty.
	Authority string
	// Scheme is https if empty.
	Scheme string
	// Headers are lines such as "x-api-key: secret", in this order. Names are sent as they are written; Envoy sends them in lower case.
	Headers []string
	// SourceAddress is Envoy's attribute source.address, such as "192.0.2.1:443"; empty if Envoy does not send it.
	SourceAddress string
	// TrustedHops is how many proxies in front of Envoy are trusted (client_address.trusted_hops).
	TrustedHops int
	// Body says that a body follows the headers.
	Body bool
	// Identity was established by an earlier policy.
	Identity *policies.Identity
	// Metadata was set by earlier policies.
	Metadata []policies.Entry
}

// Response is a response as Envoy sends it.
type Response struct {
	// Status is 200 if 0.
	Status int
	// Headers are lines, as in Request.
	Headers []string
	// Body says that a body follows the headers.
	Body bool
}

// HeaderMap returns the encoded header map of the request.
func (r Request) HeaderMap() []byte {
	var m []byte
	m = headermap.AppendField(m, ":method", or(r.Method, "GET"))
	m = headermap.AppendField(m, ":path", or(r.Path, "/"))
	m = headermap.AppendField(m, ":authority", or(r.Authority, "example.com"))
	m = headermap.AppendField(m, ":scheme", or(r.Scheme, "https"))
	return appendLines(m, r.Headers)
}

// HeaderMap returns the encoded header map of the response.
func (r Response) HeaderMap() []byte {
	status := r.Status
	if status == 0 {
		status = 200
	}
	return appendLines(headermap.AppendField(nil, ":status", strconv.Itoa(status)), r.Headers)
}

func appendLines(m []byte, lines []string) []byte {
	for _, line := range lines {
		name, value := splitLine(line)
		m = headermap.AppendField(m, name, value)
	}
	return m
}

// splitLine splits "name: value"; a pseudo-header's name begins with a colon.
func splitLine(line string) (name, value string) {
	if line == "" {
		return "", ""
	}
	i := strings.IndexByte(line[1:], ':') + 1
	if i == 0 {
		return line, ""
	}
	return line[:i], strings.TrimPrefix(line[i+1:], " ")
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// Exchange is one HTTP request and its response, through several policies. What one policy changes, the next one sees, as in the engine.
type Exchange struct {
	request  Request
	response *Response
	changes  []policies.Change
	identity *policies.Identity
	lent     policies.Identity // a copy for the policy that runs
	metadata []policies.Entry
	keeps    map[any]*keeping
	// passed and replaced are of the last body or chunk.
	passed   string
	replaced bool
}

// NewExchange begins an exchange.
func NewExchange(r Request) *Exchange {
	return &Exchange{request: r, identity: r.Identity, metadata: r.Metadata}
}

// Respond gives the upstream's response; OnResponseHeaders runs on it.
func (e *Exchange) Respond(r Response) { e.response = &r }

// begin makes the SDK's exchange of it, and returns the buffers that it aliases.
func (e *Exchange) begin(t testing.TB) (x *policies.Exchange, request, response []byte) {
	t.Helper()
	x = &policies.Exchange{}
	request = e.request.HeaderMap()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("policytest: begin exchange: %v", err)
		}
	}
	check(x.BeginRequest(or(e.request.Route, "route"), request, !e.request.Body))
	x.SetSource([]byte(e.request.SourceAddress), uint32(e.request.TrustedHops))
	for _, c := range e.changes {
		if !c.Response && !c.Trailer {
			check(x.Replay(c))
		}
	}
	if e.response != nil {
		response = e.response.HeaderMap()
		check(x.BeginResponse(response, !e.response.Body))
		for _, c := range e.changes {
			if c.Response && !c.Trailer {
				check(x.Replay(c))
			}
		}
	}
	for _, m := range e.metadata {
		x.ReplayMetadata(m)
	}
	if e.identity != nil {
		e.lent = cloneIdentity(e.identity)
		x.ReplayIdentity(e.lent)
	}
	check(x.Err())
	return x, request, response
}

// keep takes over what a policy made of the exchange. Of a failure, only removals stay that are made to.
func (e *Exchange) keep(r *Result) {
	if r.Err != nil {
		for _, c := range r.Changes {
			if c.Stays {
				e.changes = append(e.changes, c)
			}
		}
		return
	}
	e.changes = append(e.changes, r.Changes...)
	e.identity = r.Identity
	e.metadata = r.Metadata
}

func (r Request) String() string { return fmt.Sprintf("%s %s", or(r.Method, "GET"), or(r.Path, "/")) }
