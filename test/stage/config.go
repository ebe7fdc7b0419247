package stage

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/policy-engine/policy-engine/test/proof"
)

// workerName is what the kernel calls the workers: the replicas of one.
const workerName = "proofs"

// routes are the kernel's: API keys, with a response flow; tokens; bodies; and one whose policies make trouble. The last policy of each proves that the chain has run.
const routes = `
  route_policies:
    - route_name: keys
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: clients}}
          - {policy: rateLimit, params: {requests: 1000000, per: 1s, key: identity}}
          - {policy: proof}
      response_flow:
        policy_chain:
          - {policy: securityHeaders}
    - route_name: tokens
      request_flow:
        policy_chain:
          - {policy: jwtValidation, params: {issuer: local, audience: [faults]}}
          - {policy: proof}
    - route_name: bodies
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: clients}}
          - {policy: jsonSchemaValidation, params: {schema: {type: object, required: [item], properties: {item: {type: string}}}}}
          - {policy: proofOfBody}
    - route_name: trouble
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: clients}}
          - {policy: trouble}
          - {policy: wait, timeout: 200ms}
          - {policy: proof}
`

// kernelConfig is a kernel's configuration, with more of it at the end.
func (s *Stage) kernelConfig(kernel int, more string) string {
	var sockets []string
	for i := range s.spec.Replicas {
		sockets = append(sockets, s.Socket(i+1))
	}
	return fmt.Sprintf(`policy_kernel:
  server: {address: 127.0.0.1, port: %d, transport: %s%s}
  admin: {address: 127.0.0.1, port: %d%s}
  workers:
    - name: %s
      socket_paths: [%s]
`, s.ports.kernels[kernel], s.spec.Transport, moreKeys(s.spec.Server), s.ports.admins[kernel], moreKeys(s.spec.Admin),
		workerName, strings.Join(sockets, ", ")) + s.spec.Worker + s.spec.Kernel + routes + s.spec.Routes + more
}

// moreKeys continues a flow mapping with more keys.
func moreKeys(keys string) string {
	if keys == "" {
		return ""
	}
	return ", " + keys
}

func (s *Stage) workerConfig(i int) string {
	return fmt.Sprintf(`policy_worker:
  name: %s
  socket_path: %s
  key_stores:
    clients: {file: %s}
  jwt_issuers:
    local: {issuer: "%s", jwks_uri: "%s"}
`, workerName, s.Socket(i), s.KeyFile(), issuerName, s.Issuer.URL)
}

// Socket is the path of a replica's socket; the first replica is 1.
func (s *Stage) Socket(i int) string {
	return filepath.Join(s.Run, "workers", fmt.Sprintf("worker-%d.sock", i))
}

// KeyFile has the digests of the API keys.
func (s *Stage) KeyFile() string { return filepath.Join(s.Etc, "api-keys.yaml") }

// KernelFile is a kernel's configuration; the first is 0.
func (s *Stage) KernelFile(i int) string {
	return filepath.Join(s.Etc, [...]string{"kernel-config.yaml", "kernel-config-2.yaml"}[i])
}

func (s *Stage) workerFile(i int) string {
	return filepath.Join(s.Etc, fmt.Sprintf("worker-config-%d.yaml", i))
}

// WriteKernel writes a kernel's configuration as it should be, with more of it at the end.
func (s *Stage) WriteKernel(i int, more string) error {
	return writeFile(s.KernelFile(i), s.kernelConfig(i, more))
}

// WriteKeys writes the file of API keys as it should be.
func (s *Stage) WriteKeys() error {
	digest := sha256.Sum256([]byte(Key))
	return writeFile(s.KeyFile(), fmt.Sprintf("keys:\n  - {id: alice, sha256: \"%x\"}\n", digest))
}

// Trouble tells a worker's process what trouble to make; none ends it.
func (s *Stage) Trouble(worker int, what string) error {
	file := s.workerFile(worker) + ".trouble"
	if what == "" {
		return os.RemoveAll(file)
	}
	return writeFile(file, what)
}

// writeFile writes a file in the way of careful operators: whole, or not at all.
func writeFile(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// configure writes all files and puts the programs where supervisord.conf expects them.
func (s *Stage) configure(p *Programs) (proof.Key, error) {
	key, err := proof.New(filepath.Join(s.Etc, "proof-key"))
	if err != nil {
		return nil, err
	}
	links := map[string]string{filepath.Join(s.bin, "policy-kernel"): filepath.Join(p.Dir, "policy-kernel")}
	for i := 1; i <= 2; i++ {
		links[filepath.Join(s.bin, fmt.Sprintf("policy-worker-%d", i))] = filepath.Join(p.Dir, "proofworker")
		links[s.workerFile(i)+".proof-key"] = filepath.Join(s.Etc, "proof-key")
		if err := writeFile(s.workerFile(i), s.workerConfig(i)); err != nil {
			return nil, err
		}
	}
	for link, target := range links {
		if err := os.Symlink(target, link); err != nil {
			return nil, err
		}
	}
	for i := range s.ports.kernels {
		if err := s.WriteKernel(i, ""); err != nil {
			return nil, err
		}
	}
	// The second kernel is a program more for supervisord.
	second := ""
	if len(s.ports.kernels) > 1 {
		second = fmt.Sprintf(`[program:policy-kernel-2]
command="%s" --config "%s"
priority=200
autorestart=true
startsecs=1
startretries=10
stopwaitsecs=20
stdout_logfile=%s
redirect_stderr=true
`, filepath.Join(s.bin, "policy-kernel"), s.KernelFile(1), filepath.Join(s.Log, "policy-kernel-2.log"))
	}
	return key, errFirst(s.WriteKeys(), writeFile(filepath.Join(s.Etc, "more.conf"), second))
}

// envoyConfig is what `policyctl envoy` prints for this stage.
func (s *Stage) envoyConfig(p *Programs, engine string) (string, error) {
	args := []string{
		"envoy", "--config", s.KernelFile(0), "--listen", s.Target(), "--admin", address(s.ports.envoyAdmin), "--upstream", s.upstream.Address, "--engine", engine,
	}
	if s.spec.Bursts != nil {
		args = append(args, "--upstream-http2")
	}
	ctl := exec.Command(filepath.Join(p.Dir, "policyctl"), args...)
	var stderr bytes.Buffer
	ctl.Stderr = &stderr
	out, err := ctl.Output()
	if err != nil {
		return "", fmt.Errorf("policyctl %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	text := string(out)
	if s.spec.EditEnvoy != nil {
		text = s.spec.EditEnvoy(text)
	}
	return text, refuseRetries(text)
}

// refuseRetries refuses an Envoy that sends a request again, to the engine or to the upstream: what is lost could not be seen.
func refuseRetries(yaml string) error {
	for _, forbidden := range []string{"num_retries", "retry_on", "retry_policy"} {
		if strings.Contains(yaml, forbidden) {
			return fmt.Errorf("the configuration of Envoy has %s: with retries, what is lost can't be seen", forbidden)
		}
	}
	return nil
}

func errFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
