package config

import (
	"net"
	"net/netip"
	"time"

	"github.com/policy-engine/policy-engine/config/internal/document"
)

// Tracing is where spans go. It is off unless Enabled.
type Tracing struct {
	Enabled bool
	// Endpoint is host:port of a receiver of OTLP over gRPC.
	Endpoint string
	// Insecure is true for a receiver without TLS; else CAFile has the authorities, or is empty for the system's.
	Insecure bool
	CAFile   string
	// Headers may hold secrets.
	Headers []Header
	// Timeout bounds the sending of a batch.
	Timeout time.Duration
	// QueueSize is how many spans may wait.
	QueueSize int
	// SamplingRate is the share of requests that is traced, from 0 to 1. The kernel's alone.
	SamplingRate float64
	// ParentLimit is how many requests a second are traced because their client wants it. The kernel's alone.
	ParentLimit int
}

func (c *checker) kernelTracing(d *document.KernelTracing) Tracing {
	t := c.tracing(&document.Tracing{
		Node: d.Node, Enabled: d.Enabled, Endpoint: d.Endpoint, Insecure: d.Insecure, CAFile: d.CAFile, Headers: d.Headers, Timeout: d.Timeout, QueueSize: d.QueueSize,
	})
	t.SamplingRate, t.ParentLimit = d.SamplingRate, d.ParentLimit
	return t
}

func (c *checker) tracing(d *document.Tracing) Tracing {
	t := Tracing{
		Enabled: d.Enabled, Endpoint: string(d.Endpoint), Insecure: d.Insecure, CAFile: d.CAFile, Timeout: time.Duration(d.Timeout), QueueSize: d.QueueSize,
	}
	seen := names{}
	for _, h := range d.Headers {
		seen.add(c, string(h.Key), h.Pos, "names are the same in upper and lower case")
		t.Headers = append(t.Headers, Header{Name: string(h.Key), Value: string(h.Value)})
	}
	if t.Insecure && t.CAFile != "" {
		c.fail(d.At("ca_file"), "stands beside insecure: true, which uses no certificate; legal is with insecure: false")
	}
	if t.Insecure && len(t.Headers) > 0 && t.Endpoint != "" && !isLoopback(t.Endpoint) {
		c.fail(d.At("headers"), "would go to %s without TLS; legal is with insecure: false, or to this machine", t.Endpoint)
	}
	return t
}

// isLoopback reports whether an endpoint is on this machine.
func isLoopback(endpoint string) bool {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
