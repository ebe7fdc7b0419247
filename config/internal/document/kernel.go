// Package document is the shape of the configuration files: their keys, defaults and ranges, and nothing that spans several keys.
// The comments of the fields are what editors show of the keys.
package document

import (
	"time"

	"github.com/policy-engine/policy-engine/config/internal/strict"
)

// KernelFile is kernel-config.yaml.
type KernelFile struct {
	strict.Node
	// The configuration of the policy kernel.
	PolicyKernel Kernel `yaml:"policy_kernel,required"`
}

// Kernel configures the policy kernel.
type Kernel struct {
	strict.Node
	// Where Envoy connects.
	Server Server `yaml:"server"`
	// Where metrics and health are served.
	Admin Admin `yaml:"admin"`
	// The workers that run the policies.
	Workers []Worker `yaml:"workers"`
	// What happens to requests of a route that is not configured.
	UnknownRoute UnknownRoute `yaml:"unknown_route"`
	// The headers that policies own, such as the one that names the client. No client can send them: they are removed from requests on
	// every route.
	IdentityHeaders IdentityHeaders `yaml:"identity_headers"`
	// How the client's address is found, for all policies that use it (rateLimit and tokenQuota with key client_ip,
	// auditLog).
	ClientAddress ClientAddress `yaml:"client_address"`
	// The policies of each route.
	RoutePolicies []Route `yaml:"route_policies"`
	// The answer to requests of a route with a policy that no worker offers.
	PolicyNotSupportedResponse ImmediateResponse `yaml:"policy_not_supported_response"`
	// The answer to requests whose policies' workers are gone.
	WorkerUnavailableResponse ImmediateResponse `yaml:"worker_unavailable_response"`
	// In what form clients get refusals.
	Refusals Refusals `yaml:"refusals"`
	// What bodies may take of memory.
	Limits Limits `yaml:"limits"`
	// How the kernel ends when it is told to (SIGTERM).
	Drain Drain `yaml:"drain"`
	// What the process tells of itself.
	Observability Observability `yaml:"observability"`
}

// UnknownRoute is what happens to requests of a route that is not configured.
type UnknownRoute struct {
	strict.Node `short:"action"`
	// deny refuses them, continue lets them pass without any policy.
	Action Unknown `yaml:"action"`
	// The status of the refusal of a request that no route of Envoy matches (the catch-all route of `policyctl envoy`), or
	// for which Envoy sends no name of a route. A route that Envoy names and the kernel does not know is always 500.
	Status int `yaml:"status" min:"400" max:"599"`
}

// Drain is how the kernel ends when it is told to. What supervises it has to wait longer than both times together before it kills.
type Drain struct {
	strict.Node
	// How long it goes on as before after it has said that it is not ready (gRPC health, /health/ready), so that an Envoy with another kernel goes there.
	Delay strict.Duration `yaml:"delay" min:"0s" max:"10m"`
	// How long requests under way may take after that; what is left then is refused.
	Deadline strict.Duration `yaml:"deadline" min:"1ms" max:"1h"`
}

// IdentityHeaders are the headers that policies own.
type IdentityHeaders struct {
	strict.Node
	// Routes on which clients can send the headers that no policy of the route owns. The upstream of such a route must not trust them.
	KeepOn []RouteName `yaml:"keep_on"`
}

// ClientAddress is how the client's address is found. Envoy's own decision counts where its ext_proc filter sends it
// (request_attributes: [source.address]); otherwise it is an entry of x-forwarded-for.
type ClientAddress struct {
	strict.Node
	// How many proxies in front of Envoy are trusted, the same number as Envoy's xff_num_trusted_hops: the client's
	// address is the entry of x-forwarded-for that has so many entries to its right. A request with fewer entries has
	// no address.
	TrustedHops int `yaml:"trusted_hops" min:"0" max:"32"`
}

// Limits is what bodies may take of memory. What is beyond is refused: 413 for a request, 502 for a response.
type Limits struct {
	strict.Node
	// The longest body that is held as a whole.
	MaxBodySize strict.Size `yaml:"max_body_size" min:"1KiB" max:"3MiB"`
	// What all bodies and chunks that are held at the same time may take.
	MaxTotalBodySize strict.Size `yaml:"max_total_body_size" min:"1KiB" max:"64GiB"`
	// How many header fields Envoy takes (max_headers_count). A message that would have more after policies changed its headers is refused: 431, or 502 for a response.
	MaxHeaderCount int `yaml:"max_header_count" min:"10" max:"10000"`
	// The bytes of names and values of header fields that Envoy takes of a request (max_request_headers_kb), refused likewise.
	MaxHeaderSize strict.Size `yaml:"max_header_size" min:"1KiB" max:"8MiB"`
	// The same of a response (max_response_headers_kb of the upstreams' clusters). Default: max_header_size, 60KiB at least, and 80KiB where the upstream answers over HTTP/1 for certain, by transfer-encoding, connection or more than 61KiB of fields.
	MaxResponseHeaderSize strict.Size `yaml:"max_response_header_size" min:"1KiB" max:"8MiB"`
}

// Server is where Envoy connects.
type Server struct {
	strict.Node
	// The IP address or host name to listen on.
	Address Host `yaml:"address"`
	// The TCP port to listen on.
	Port int `yaml:"port" min:"1" max:"65535"`
	// The Unix socket to listen on, in place of address and port.
	SocketPath SocketPath `yaml:"socket_path"`
	// What serves ext_proc.
	Transport Transport `yaml:"transport"`
	// How many requests one connection of Envoy may have under way.
	MaxConcurrentStreams int `yaml:"max_concurrent_streams" min:"1" max:"1000000"`
	// How many connections may be open. When one is too many, one that is of no use is closed for it; without such a one it is refused.
	MaxConnections int `yaml:"max_connections" min:"1" max:"1000000"`
	// How many of them may come from one address (of IPv6, from one /64); not for a Unix socket.
	MaxConnectionsPerPeer int `yaml:"max_connections_per_peer" min:"1" max:"1000000"`
	// What all connections together may hold of messages and answers; 0B is half of the memory limit of the process, or 256MiB where there is none.
	MaxMemory strict.Size `yaml:"max_memory" min:"0B" max:"64GiB"`
	// How long a connection may take until it speaks HTTP/2, TLS included.
	HandshakeTimeout strict.Duration `yaml:"handshake_timeout" min:"100ms" max:"1m"`
	// TLS towards Envoy; off without a certificate.
	TLS TLS `yaml:"tls"`
}

// TLS names the files of certificates.
type TLS struct {
	strict.Node
	// The server's certificate chain (PEM).
	CertFile string `yaml:"cert_file"`
	// The private key of the certificate (PEM).
	KeyFile string `yaml:"key_file"`
	// The authorities of client certificates (PEM); with it, clients must have one.
	ClientCAFile string `yaml:"client_ca_file"`
}

// Admin is where metrics and health are served.
type Admin struct {
	strict.Node
	// The IP address or host name to listen on.
	Address Host `yaml:"address"`
	// The TCP port to listen on.
	Port int `yaml:"port" min:"1" max:"65535"`
	// Where the guarded pages are, which are not for everyone (configuration, routes, reload, log level, profiles): loopback is on the admin port for connections to a loopback address, all is at
	// every address of the admin port; or host:port or the path of a Unix socket (mode 0600) that is for them alone.
	GuardedAddress GuardedAddress `yaml:"guarded_address"`
	// What everyone must show (Authorization: Bearer) to use the guarded pages; without it, peers on this machine may use them. Better a variable than a text.
	Token AdminToken `yaml:"token" secret:"true"`
	// A file with the token, in place of token.
	TokenFile string `yaml:"token_file"`
	// How many connections may be open, as in server.
	MaxConnections int `yaml:"max_connections" min:"1" max:"10000"`
	// How many of them may come from one address (of IPv6, from one /64).
	MaxConnectionsPerPeer int `yaml:"max_connections_per_peer" min:"1" max:"10000"`
}

// Worker is a worker with its replicas.
type Worker struct {
	strict.Node `exactly_one:"socket_path,socket_paths"`
	// The worker's name; no two workers have the same.
	Name Name `yaml:"name,required"`
	// The worker's Unix socket.
	SocketPath SocketPath `yaml:"socket_path"`
	// The Unix sockets of the worker's replicas, in place of socket_path.
	SocketPaths []SocketPath `yaml:"socket_paths" min:"1"`
	// How many connections each replica gets.
	Connections int `yaml:"connections" min:"1" max:"64"`
	// How long a call may take, all its attempts together.
	Timeout strict.Duration `yaml:"timeout" min:"1ms" max:"5m"`
	// How many calls may be in flight on all replicas together, at most as many as the replicas announce (max_concurrent_requests). Further ones wait.
	MaxInFlight int `yaml:"max_in_flight" min:"1" max:"1000000"`
	// The largest share of the calls in flight, and of those that wait, that one chain of a route may have; 1 means no bound. While several routes are slow, each gets less.
	RouteShare float64 `yaml:"route_share" min:"0.01" max:"1"`
	// How many calls may wait for room; what is more is refused at once (503, WORKER_OVERLOADED, or ROUTE_OVERLOADED if it is the route that has its share).
	MaxQueued int `yaml:"max_queued" min:"0" max:"1000000"`
	// How long a call may wait for room before it is refused; 0s means three quarters of the worker's timeout. It is part of the timeout.
	QueueTimeout strict.Duration `yaml:"queue_timeout" min:"0s" max:"5m"`
	// How a call that came to nothing on one replica gets to another one.
	Retry Retry `yaml:"retry"`
	// When a replica gets no calls for a while.
	CircuitBreaker CircuitBreaker `yaml:"circuit_breaker"`
	// How long the share of calls of a replica grows that has come back; 0s gives it its whole share at once.
	SlowStart strict.Duration `yaml:"slow_start" min:"0s" max:"10m"`
	// How the replicas are watched.
	HealthCheck HealthCheck `yaml:"health_check"`
}

// Retry is how a call that came to nothing on one replica gets to another one. A call is tried again only while nothing of it was applied to the request; what policies count,
// such as rateLimit, may be counted twice.
type Retry struct {
	strict.Node
	// How many attempts a call has, the first one included; 1 means that none is tried again.
	MaxAttempts int `yaml:"max_attempts" min:"1" max:"5"`
	// The wait before the next attempt when no other replica is there; it doubles from attempt to attempt.
	Backoff strict.Duration `yaml:"backoff" min:"1ms" max:"1m"`
	// After how long without an answer another replica gets the call too, and the first answer counts; 0s means half of the worker's timeout.
	HedgeAfter strict.Duration `yaml:"hedge_after" min:"0s" max:"5m"`
}

// CircuitBreaker is when a replica gets no calls for a while.
type CircuitBreaker struct {
	strict.Node
	// How many calls in a row have to be without an answer in time.
	ConsecutiveFailures int `yaml:"consecutive_failures" min:"1" max:"1000000"`
	// How long it gets none, before one call is tried. When that fails too, the time doubles, up to 32 times.
	OpenTime strict.Duration `yaml:"open_time" min:"1ms" max:"10m"`
}

// HealthCheck is how replicas are watched.
type HealthCheck struct {
	strict.Node
	// The time between two checks.
	Interval strict.Duration `yaml:"interval" min:"10ms" max:"1h"`
	// How long an answer may take.
	Timeout strict.Duration `yaml:"timeout" min:"1ms" max:"1m"`
	// How many answers in a row have to be late before the replica is given up; after a late one, the next check comes at once.
	UnhealthyThreshold int `yaml:"unhealthy_threshold" min:"1" max:"100"`
}

// Route is the policies of a route.
type Route struct {
	strict.Node
	// The route's name, as Envoy sends it; no two routes have the same.
	RouteName RouteName `yaml:"route_name,required"`
	// The policies that see the request.
	RequestFlow Flow `yaml:"request_flow"`
	// The policies that see the response.
	ResponseFlow Flow `yaml:"response_flow"`
}

// Flow is policies one after the other.
type Flow struct {
	strict.Node
	// What is asked of Envoy: auto is the least that the policies need.
	ProcessingMode ProcessingMode `yaml:"processing_mode"`
	// The policies, in their order.
	PolicyChain []Policy `yaml:"policy_chain"`
}

// Policy is one place in a chain.
type Policy struct {
	strict.Node
	// The policy's name.
	Policy Name `yaml:"policy,required"`
	// The policy's parameters; its README tells which there are.
	Params strict.Object `yaml:"params"`
	// What the policy's failure means: deny refuses the request, continue goes on as if the policy were not there, skip_remaining skips the policies after it.
	OnFailure OnFailure `yaml:"on_failure"`
	// How long the policy may take; without it, as long as the call of its worker.
	Timeout strict.Duration `yaml:"timeout" min:"1ms" max:"5m"`
}

// ImmediateResponse is an answer in place of the upstream's.
type ImmediateResponse struct {
	strict.Node
	// The HTTP status.
	StatusCode int `yaml:"status_code" min:"200" max:"599"`
	// The header lines.
	Headers strict.Map[HeaderName, HeaderValue] `yaml:"headers"`
	// The body.
	Body string `yaml:"body" max:"65536"`
}

// Refusals is in what form clients get refusals: of policies, unless they have a body of their own, and of the kernel. Clients of gRPC
// get a status and a message.
type Refusals struct {
	strict.Node `short:"format"`
	// json is {"error":…,"code":…}. problem_json is application/problem+json (RFC 9457). auto is problem_json for clients whose Accept
	// header names it, and json for others.
	Format RefusalFormat `yaml:"format"`
	// Bodies in place of these, by status.
	Templates []RefusalTemplate `yaml:"templates"`
}

// RefusalTemplate is the body of refusals with one status.
type RefusalTemplate struct {
	strict.Node
	// The HTTP status.
	StatusCode int `yaml:"status_code,required" min:"400" max:"599"`
	// The media type of the body. What is filled in is escaped as JSON and HTML need it.
	ContentType MediaType `yaml:"content_type,required"`
	// The body. {{status}}, {{title}}, {{code}} and {{message}} in it are filled in: 403, Forbidden, SCOPE_MISSING, and a sentence.
	Body string `yaml:"body,required" max:"65536"`
}

// Observability is what the process tells of itself.
type Observability struct {
	strict.Node
	// The least level that is logged.
	LogLevel LogLevel `yaml:"log_level"`
	// Spans of requests and of calls to workers, for OpenTelemetry.
	Tracing KernelTracing `yaml:"tracing"`
}

// Defaults sets what the file leaves out.
func (f *KernelFile) Defaults() {
	f.PolicyKernel = Kernel{
		Server: Server{
			Address: "0.0.0.0", Port: 9001, Transport: "fast", MaxConcurrentStreams: 4096, MaxConnections: 1024, MaxConnectionsPerPeer: 256, HandshakeTimeout: strict.Duration(5 * time.Second),
		},
		Admin:        Admin{Address: "0.0.0.0", Port: 9090, GuardedAddress: "loopback", MaxConnections: 128, MaxConnectionsPerPeer: 32},
		UnknownRoute: UnknownRoute{Action: "deny", Status: 404},
		PolicyNotSupportedResponse: ImmediateResponse{
			StatusCode: 500,
			Headers:    headers("content-type", "application/json"),
			Body:       `{"error":"a policy of this route is not supported","code":"POLICY_NOT_SUPPORTED"}`,
		},
		WorkerUnavailableResponse: ImmediateResponse{
			StatusCode: 503,
			Headers:    headers("retry-after", "30", "content-type", "application/json"),
			Body:       `{"error":"the policies of this route can't be checked now","code":"WORKER_UNAVAILABLE"}`,
		},
		Refusals: Refusals{Format: "auto"},
		Drain:    Drain{Delay: strict.Duration(time.Second), Deadline: strict.Duration(10 * time.Second)},
		Limits:   Limits{MaxBodySize: 1 << 20, MaxTotalBodySize: 256 << 20, MaxHeaderCount: 100, MaxHeaderSize: 60 << 10},
		Observability: Observability{LogLevel: "info", Tracing: KernelTracing{
			Endpoint: defaultReceiver, Insecure: true, Timeout: defaultExportTimeout, QueueSize: defaultSpanQueue, SamplingRate: 0.01, ParentLimit: 100,
		}},
	}
}

func headers(lines ...string) (m strict.Map[HeaderName, HeaderValue]) {
	for i := 0; i < len(lines); i += 2 {
		m = append(m, strict.Entry[HeaderName, HeaderValue]{Key: HeaderName(lines[i]), Value: HeaderValue(lines[i+1])})
	}
	return m
}

// Defaults sets what the file leaves out.
func (w *Worker) Defaults() {
	w.Connections = 2
	w.Timeout = strict.Duration(500 * time.Millisecond)
	w.MaxInFlight, w.RouteShare, w.MaxQueued = 4096, 0.5, 65536
	w.Retry = Retry{MaxAttempts: 2, Backoff: strict.Duration(10 * time.Millisecond)}
	w.CircuitBreaker = CircuitBreaker{ConsecutiveFailures: 5, OpenTime: strict.Duration(time.Second)}
	w.SlowStart = strict.Duration(time.Second)
	w.HealthCheck = HealthCheck{Interval: strict.Duration(time.Second), Timeout: strict.Duration(100 * time.Millisecond), UnhealthyThreshold: 3}
}

// Defaults sets what the file leaves out.
func (r *Route) Defaults() {
	r.RequestFlow.ProcessingMode, r.ResponseFlow.ProcessingMode = "auto", "auto"
}

// Defaults sets what the file leaves out.
func (p *Policy) Defaults() { p.OnFailure = "deny" }
