package document

import (
	"time"

	"github.com/policy-engine/policy-engine/config/internal/strict"
)

// WorkerFile is worker-config-N.yaml.
type WorkerFile struct {
	strict.Node
	// The configuration of a policy worker.
	PolicyWorker PolicyWorker `yaml:"policy_worker,required"`
}

// PolicyWorker configures a policy worker.
type PolicyWorker struct {
	strict.Node
	// The worker's name, as the kernel's configuration has it.
	Name Name `yaml:"name,required"`
	// The Unix socket to listen on.
	SocketPath SocketPath `yaml:"socket_path,required"`
	// Other users of the machine may write the socket's folder, as in an `emptyDir` volume of Kubernetes. They can remove the socket,
	// which stops the worker's routes, but neither call the worker nor answer in its place.
	SharedSocketFolder bool `yaml:"shared_socket_folder"`
	// How many calls may be in flight whose policies may wait. Kernels keep further calls back.
	MaxConcurrentRequests int `yaml:"max_concurrent_requests" min:"1" max:"1000000"`
	// What a request may take of memory.
	ResourceLimits ResourceLimits `yaml:"resource_limits"`
	// The sets of API keys, by name.
	KeyStores strict.Map[Name, KeyStore] `yaml:"key_stores"`
	// The issuers of tokens, by name.
	JWTIssuers strict.Map[Name, JWTIssuer] `yaml:"jwt_issuers"`
	// What the process tells of itself.
	Observability WorkerObservability `yaml:"observability"`
}

// WorkerObservability is what the process tells of itself.
type WorkerObservability struct {
	strict.Node
	// The least level that is logged.
	LogLevel LogLevel `yaml:"log_level"`
	// Spans of policies, of those requests that the kernel traces, for OpenTelemetry.
	Tracing Tracing `yaml:"tracing"`
}

// ResourceLimits is what a request may take of memory.
type ResourceLimits struct {
	strict.Node
	// The largest body.
	MaxBodySize strict.Size `yaml:"max_body_size" min:"1B" max:"1GiB"`
	// The largest state that goes from policy to policy.
	MaxStateSize strict.Size `yaml:"max_state_size" min:"1B" max:"16MiB"`
}

// KeyStore is a set of API keys.
type KeyStore struct {
	strict.Node
	// The file with the digests of the keys.
	File string `yaml:"file,required" min:"1"`
}

// JWTIssuer is an issuer of tokens. Without jwks_uri and jwks_file, its key set is found by OpenID Connect Discovery.
type JWTIssuer struct {
	strict.Node
	// The value of iss in the issuer's tokens. With tenants, {tenant} in it stands for each of them.
	Issuer string `yaml:"issuer,required" min:"1"`
	// The tenants of an issuer template. Tokens of others are refused.
	Tenants []string `yaml:"tenants" min:"1"`
	// The URL of the issuer's key set; https, or http to this machine. {tenant} in it stands for the tenant.
	JWKSURI KeySetURL `yaml:"jwks_uri"`
	// The file with the issuer's key set (a JWK set, or public keys and certificates in PEM), in place of jwks_uri.
	JWKSFile string `yaml:"jwks_file" min:"1"`
	// Whether URLs of the issuer may be http to other machines. Whoever can change what is fetched can sign tokens.
	AllowHTTP bool `yaml:"allow_http"`
	// TLS to the server of the key set.
	TLS IssuerTLS `yaml:"tls"`
	// How long a fetch may take, with connecting, redirects and the body.
	Timeout strict.Duration `yaml:"timeout" min:"100ms" max:"1m"`
	// Whether the worker takes calls only after the key set was loaded once.
	Required bool `yaml:"required"`
}

// Defaults sets what the file leaves out.
func (j *JWTIssuer) Defaults() { j.Timeout = strict.Duration(10 * time.Second) }

// IssuerTLS is TLS to the server of a key set.
type IssuerTLS struct {
	strict.Node
	// The authorities of the server's certificate (PEM), in place of the system's.
	CAFile string `yaml:"ca_file" min:"1"`
}

// Defaults sets what the file leaves out.
func (f *WorkerFile) Defaults() {
	f.PolicyWorker = PolicyWorker{
		MaxConcurrentRequests: 1000,
		ResourceLimits:        ResourceLimits{MaxBodySize: 1 << 20, MaxStateSize: 64 << 10},
		Observability: WorkerObservability{LogLevel: "info", Tracing: Tracing{
			Endpoint: defaultReceiver, Insecure: true, Timeout: defaultExportTimeout, QueueSize: defaultSpanQueue,
		}},
	}
}
