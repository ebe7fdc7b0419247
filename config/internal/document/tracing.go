package document

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/policy-engine/policy-engine/config/internal/strict"
)

// What tracing has that the file leaves out.
const (
	defaultReceiver      Endpoint = "localhost:4317"
	defaultExportTimeout          = strict.Duration(5 * time.Second)
	defaultSpanQueue              = 4096
)

// Tracing is where spans go.
type Tracing struct {
	strict.Node
	// Whether spans are made.
	Enabled bool `yaml:"enabled"`
	// The host and port of the receiver of OTLP over gRPC.
	Endpoint Endpoint `yaml:"endpoint"`
	// Without TLS to the receiver.
	Insecure bool `yaml:"insecure"`
	// The authorities of the receiver's certificate (PEM), in place of the system's; with insecure: false.
	CAFile string `yaml:"ca_file" min:"1"`
	// Header lines for the receiver, such as a token of its.
	Headers strict.Map[HeaderName, HeaderValue] `yaml:"headers" secret:"true"`
	// How long the receiver may take for a batch.
	Timeout strict.Duration `yaml:"timeout" min:"10ms" max:"1m"`
	// How many spans may wait for the receiver; what is beyond is lost, and counted.
	QueueSize int `yaml:"queue_size" min:"1" max:"1000000"`
}

// KernelTracing is where spans go, and of which requests there are some.
type KernelTracing struct {
	strict.Node
	// Whether spans are made.
	Enabled bool `yaml:"enabled"`
	// The host and port of the receiver of OTLP over gRPC.
	Endpoint Endpoint `yaml:"endpoint"`
	// Without TLS to the receiver.
	Insecure bool `yaml:"insecure"`
	// The authorities of the receiver's certificate (PEM), in place of the system's; with insecure: false.
	CAFile string `yaml:"ca_file" min:"1"`
	// Header lines for the receiver, such as a token of its.
	Headers strict.Map[HeaderName, HeaderValue] `yaml:"headers" secret:"true"`
	// How long the receiver may take for a batch.
	Timeout strict.Duration `yaml:"timeout" min:"10ms" max:"1m"`
	// How many spans may wait for the receiver; what is beyond is lost, and counted.
	QueueSize int `yaml:"queue_size" min:"1" max:"1000000"`
	// The share of the requests without a traceparent that is traced.
	SamplingRate float64 `yaml:"sampling_rate" min:"0" max:"1"`
	// How many requests a second are traced because their traceparent says so; of those beyond, and with 0 of all, the sampling rate decides.
	ParentLimit int `yaml:"parent_limit" min:"0" max:"1000000"`
}

// Endpoint is a host with a port.
type Endpoint string

// UnmarshalText checks the endpoint.
func (e *Endpoint) UnmarshalText(text []byte) error {
	host, port, err := net.SplitHostPort(string(text))
	n, notPort := strconv.ParseUint(port, 10, 16)
	var h Host
	if err != nil || notPort != nil || n == 0 || h.UnmarshalText([]byte(host)) != nil {
		return fmt.Errorf("%q is not an endpoint; legal is host:port, such as localhost:4317, without a scheme", text)
	}
	*e = Endpoint(text)
	return nil
}

// Pattern is for the schema.
func (*Endpoint) Pattern() string { return `^.+:[0-9]{1,5}$` }
