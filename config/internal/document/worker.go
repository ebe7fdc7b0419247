package document

import "github.com/policy-engine/policy-engine/config/internal/strict"

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

// JWTIssuer is an issuer of tokens.
type JWTIssuer struct {
	strict.Node `exactly_one:"jwks_uri,jwks_file"`
	// The value of iss in the issuer's tokens.
	Issuer string `yaml:"issuer,required" min:"1"`
	// The URL of the issuer's key set; https, or http to this machine.
	JWKSURI KeySetURL `yaml:"jwks_uri"`
	// The file with the issuer's key set, in place of jwks_uri.
	JWKSFile string `yaml:"jwks_file" min:"1"`
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
