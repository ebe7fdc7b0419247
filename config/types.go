// Package config reads the configuration files into strict, immutable values. It knows no policy and no network.
package config

import (
	"encoding/json"
	"time"

	"github.com/policy-engine/policy-engine/config/internal/strict"
)

// Pos is where a value stands in a file.
type Pos struct {
	File string
	Line int
	// Path is the value's path, such as policy_kernel.route_policies[0].request_flow.policy_chain[1].
	Path string
}

// Kernel is kernel-config.yaml.
type Kernel struct {
	// Warnings are what is valid and probably not meant, in the order of the lines.
	Warnings     Errors `json:",omitempty"`
	File         string
	Server       Server
	Admin        Admin
	Workers      []WorkerRef
	UnknownRoute UnknownRoute
	// RouteNotFoundStatus is the status of the refusal of a request that no route of Envoy matches.
	RouteNotFoundStatus int
	IdentityHeaders     IdentityHeaders
	ClientAddress       ClientAddress
	Routes              []Route
	PolicyNotSupported  ImmediateResponse
	WorkerUnavailable   ImmediateResponse
	Refusals            Refusals
	Limits              Limits
	Drain               Drain
	Observability       Observability
	// Fixed are the keys that take a restart, always the same ones in the same order.
	Fixed []Fixed `json:"-"`
	// origins are the variables that values of the file have in them.
	origins strict.Origins
	// Digest is the SHA-256 of Text, the file's text.
	Digest [32]byte `json:"-"`
	Text   []byte   `json:"-"`
}

// Drain is how the kernel ends.
type Drain struct {
	// Delay is how long it goes on as before after it has said that it is not ready.
	Delay time.Duration
	// Deadline is how long requests under way may take after that.
	Deadline time.Duration
}

// Limits bound the memory that bodies take, in bytes.
type Limits struct {
	// MaxBodySize is the longest body that is held as a whole.
	MaxBodySize int
	// MaxTotalBodySize is what all bodies and chunks that are held at the same time may take.
	MaxTotalBodySize int
	// MaxHeaderCount and MaxHeaderSize are what Envoy takes of header fields in one message.
	MaxHeaderCount, MaxHeaderSize int
	// MaxResponseHeaderSize takes the place of MaxHeaderSize for responses; 0 stands for Envoy's defaults, by the upstream's protocol.
	MaxResponseHeaderSize int
}

// Server is where Envoy connects.
type Server struct {
	// Address and Port are used when SocketPath is empty.
	Address              string
	Port                 int
	SocketPath           string
	Transport            Transport
	MaxConcurrentStreams uint32
	// MaxConnections is how many connections may be open, MaxConnectionsPerPeer how many of them from one address.
	MaxConnections        int
	MaxConnectionsPerPeer int
	// MaxMemory is what all connections may hold, in bytes; 0 derives it from the memory limit of the process.
	MaxMemory int64
	// HandshakeTimeout bounds TLS and the HTTP/2 preface.
	HandshakeTimeout time.Duration
	TLS              TLS
}

// TLS is off when CertFile is empty; mutual TLS is on when ClientCAFile is set.
type TLS struct {
	CertFile     string
	KeyFile      string
	ClientCAFile string
}

// Admin is where metrics and health are served.
type Admin struct {
	Address string
	Port    int
	// GuardedAddress is where the pages are that are not for everyone: GuardedLoopback, GuardedAll, HOST:PORT, or the path of a Unix socket.
	GuardedAddress string
	// Token is what everyone shows who uses those pages; without one, peers on this machine may. If TokenFile is set, it has the token.
	Token     string `json:",omitempty"`
	TokenFile string `json:",omitempty"`
	// MaxConnections is how many connections may be open, MaxConnectionsPerPeer how many of them from one address.
	MaxConnections        int
	MaxConnectionsPerPeer int
}

// The guarded addresses that are on the admin port.
const (
	// GuardedLoopback serves the guarded pages to connections to a loopback address.
	GuardedLoopback = "loopback"
	// GuardedAll serves them at every address of the admin port.
	GuardedAll = "all"
)

// WorkerRef is a worker name with its replicas, one socket each.
type WorkerRef struct {
	Name        string
	SocketPaths []string
	// Connections is how many connections each replica gets.
	Connections int
	Timeout     time.Duration
	// MaxInFlight is how many calls may be under way on all replicas together; 0 means as many as the connections take.
	MaxInFlight int
	// RouteShare is the largest share of them that one chain of a route may have; 0 or 1 is no bound.
	RouteShare float64
	// MaxQueued is how many calls may wait for room; 0 is none. QueueTimeout is for how long; 0 means
	// three quarters of Timeout.
	MaxQueued    int
	QueueTimeout time.Duration
	Retry        Retry
	Breaker      CircuitBreaker
	// SlowStart is how long the share of calls of a replica grows that has come back.
	SlowStart   time.Duration
	HealthCheck HealthCheck
	Pos         Pos
}

// Retry is how a call that came to nothing on one replica gets to another one.
type Retry struct {
	// MaxAttempts counts the first one; 0 means 1.
	MaxAttempts int
	// Backoff is the wait before an attempt when no other replica is there.
	Backoff time.Duration
	// HedgeAfter is after how long without an answer another replica gets the call too; 0 means half of the worker's timeout.
	HedgeAfter time.Duration
}

// CircuitBreaker is when a replica gets no calls for a while.
type CircuitBreaker struct {
	// ConsecutiveFailures open it; 0 means never.
	ConsecutiveFailures int
	// OpenTime is how long it stays open for the first time; it doubles from time to time.
	OpenTime time.Duration
}

// HealthCheck is how often a replica is asked, and how long an answer may take.
type HealthCheck struct {
	Interval time.Duration
	Timeout  time.Duration
	// UnhealthyThreshold is how many answers in a row have to be late before a replica is given up that answers no calls either.
	UnhealthyThreshold int
}

// Route is the policies of one route name.
type Route struct {
	Name     string
	Request  Flow
	Response Flow
	Pos      Pos
}

// Flow is the policies of a route in the request or the response phases.
type Flow struct {
	Mode  ProcessingMode
	Chain []Policy
}

// Policy is one place in a chain.
type Policy struct {
	Name string
	// Params is a JSON object, or empty.
	Params    json.RawMessage
	OnFailure OnFailure
	// Timeout is 0 when the configuration sets none.
	Timeout time.Duration
	Pos     Pos
	// ParamLines are the lines of the parameters by their path below params, such as "algorithms[1]", for errors that a worker finds.
	ParamLines map[string]int
}

// ImmediateResponse is an answer in place of the upstream's.
type ImmediateResponse struct {
	Status  int
	Headers []Header
	Body    []byte
}

// Refusals is in what form clients get refusals.
type Refusals struct {
	// Format is auto, json or problem_json.
	Format    RefusalFormat
	Templates []RefusalTemplate
}

// RefusalFormat is the form of refusals that no template is for.
type RefusalFormat string

// The forms. RefusalAuto, and the empty one, is RefusalProblemJSON for clients whose Accept header names it, else RefusalJSON.
const (
	RefusalAuto        RefusalFormat = "auto"
	RefusalJSON        RefusalFormat = "json"
	RefusalProblemJSON RefusalFormat = "problem_json"
)

// RefusalTemplate is the body of refusals with a status. {{status}}, {{title}}, {{code}} and {{message}} in it are filled in.
type RefusalTemplate struct {
	Status      int
	ContentType string
	Body        string
}

// Header is a header line; the name is in lower case.
type Header struct {
	Name  string
	Value string
}

// Observability is what the process tells of itself.
type Observability struct {
	// LogLevel is debug, info, warn or error.
	LogLevel string
	Tracing  Tracing
}

// Transport is what serves ext_proc.
type Transport string

// The transports.
const (
	// TransportFast is our own HTTP/2, to Envoy and to the workers.
	TransportFast Transport = "fast"
	// TransportGRPC is grpc-go, the reference.
	TransportGRPC Transport = "grpc"
)

// IdentityHeaders are the headers that policies own.
type IdentityHeaders struct {
	// KeepOn are the names of routes on which clients can send the headers that no policy of the route owns.
	KeepOn []string
}

// ClientAddress is how the client's address is found.
type ClientAddress struct {
	// TrustedHops is how many proxies in front of Envoy are trusted, as Envoy's xff_num_trusted_hops.
	TrustedHops int
}

// RouteNotFound is the name of the route of Envoy that takes what no other one matches (policyctl envoy). No route of the configuration has it.
const RouteNotFound = "policy-engine/not-found"

// UnknownRoute is what happens to requests of a route that is not configured.
type UnknownRoute string

// The choices for unknown routes.
const (
	UnknownRouteDeny     UnknownRoute = "deny"
	UnknownRouteContinue UnknownRoute = "continue"
)

// OnFailure is what a policy's failure means.
type OnFailure string

// The choices for failures.
const (
	OnFailureDeny          OnFailure = "deny"
	OnFailureContinue      OnFailure = "continue"
	OnFailureSkipRemaining OnFailure = "skip_remaining"
)

// ProcessingMode is what a flow asks Envoy for.
type ProcessingMode string

// The processing modes.
const (
	ProcessingModeAuto        ProcessingMode = "auto"
	ProcessingModeHeadersOnly ProcessingMode = "headers_only"
	// ProcessingModeBuffered wants bodies as a whole, ProcessingModeStreaming refuses policies that need them so.
	ProcessingModeBuffered  ProcessingMode = "buffered_body"
	ProcessingModeStreaming ProcessingMode = "streaming"
)

// Worker is worker-config-N.yaml.
type Worker struct {
	// Warnings are what is valid and probably not meant, in the order of the lines.
	Warnings   Errors `json:",omitempty"`
	File       string
	Name       string
	SocketPath string
	// SharedSocketFolder allows other users to write the folder of SocketPath.
	SharedSocketFolder    bool
	MaxConcurrentRequests int
	ResourceLimits        ResourceLimits
	KeyStores             []KeyStore
	JWTIssuers            []JWTIssuer
	Observability         Observability
}

// ResourceLimits are sizes in bytes.
type ResourceLimits struct {
	MaxBodySize  int
	MaxStateSize int
}

// KeyStore is a named set of API keys in a file.
type KeyStore struct {
	Name string
	File string
	Pos  Pos
}

// JWTIssuer is a named token issuer. At most one of JWKSURI and JWKSFile is set; without both, the key set is found by OpenID Connect Discovery.
type JWTIssuer struct {
	Name string
	// Issuer is the iss of its tokens. With Tenants, it and JWKSURI have {tenant} in the place of the tenant.
	Issuer   string
	Tenants  []string
	JWKSURI  string
	JWKSFile string
	// AllowHTTP allows plain http to other machines.
	AllowHTTP bool
	// CAFile has the authorities of the server's certificate; empty for the system's.
	CAFile string
	// Timeout bounds a fetch; 0 means 10 seconds.
	Timeout time.Duration
	// Required keeps the worker from taking calls until the key set was loaded once.
	Required bool
	Pos      Pos
}
