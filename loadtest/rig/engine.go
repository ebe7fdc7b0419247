package rig

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/policy-engine/policy-engine/loadtest/credentials"
)

// object is a mapping of a configuration; JSON is YAML.
type object = map[string]any

// kernelConfig is the kernel's configuration.
func (s *Spec) kernelConfig(port, admin int, runDir string) object {
	var workers []object
	for i := range s.divide() {
		workers = append(workers, object{"name": workerName(i), "socket_path": socket(runDir, i)})
	}
	all, _ := s.routes()
	routes := make([]object, len(all))
	for i, r := range all {
		routes[i] = object{"route_name": r.name}
		for key, chain := range s.flows() {
			routes[i][key] = object{"policy_chain": chain}
		}
	}
	return object{"policy_kernel": object{
		"server":         object{"address": loopback, "port": port, "transport": s.Transport},
		"admin":          object{"address": loopback, "port": admin},
		"workers":        workers,
		"route_policies": routes,
	}}
}

// flows are the chains of a route, those that are not empty.
func (s *Spec) flows() map[string][]object {
	flows := make(map[string][]object)
	identified := false
	for _, name := range s.Chain {
		p := policies[name]
		params := p.params
		if name == "rateLimit" {
			params = object{"requests": limit + s.version, "per": "1s"}
		}
		if name == "rateLimit" && !identified {
			params["key"] = "route" // Nobody has told whose request it is.
		}
		identified = identified || p.identifies
		entry := object{"policy": name}
		if len(params) > 0 {
			entry["params"] = params
		}
		key := "request_flow"
		if p.response {
			key = "response_flow"
		}
		flows[key] = append(flows[key], entry)
	}
	return flows
}

func workerName(i int) string { return fmt.Sprintf("worker-%d", i+1) }

func socket(runDir string, i int) string {
	return filepath.Join(runDir, "workers", workerName(i)+".sock")
}

// workerConfig is the configuration of a worker.
func workerConfig(dir, runDir string, i int) object {
	return object{"policy_worker": object{
		"name": workerName(i), "socket_path": socket(runDir, i),
		"key_stores":  object{"clients": object{"file": filepath.Join(dir, credentials.KeyFile)}},
		"jwt_issuers": object{"loadtest": object{"issuer": credentials.Issuer, "jwks_file": filepath.Join(dir, credentials.KeySetFile)}},
	}}
}

func writeConfig(dir, name string, content object) (string, error) {
	text, err := json.MarshalIndent(content, "", " ")
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", name, err)
	}
	path := filepath.Join(dir, name)
	// The kernel follows its file, and takes one that does not end with a line for half written.
	if err := os.WriteFile(path, append(text, '\n'), 0o600); err != nil {
		return "", fmt.Errorf("write the configuration: %w", err)
	}
	return path, nil
}

// kernelFile is where the kernel's configuration is.
const kernelFile = "kernel.yaml"

// writeKernelConfig writes it. traced is the share of the requests that are traced, if tracing is on.
func (r *Rig) writeKernelConfig(name string, traced float64) error {
	config := r.spec.kernelConfig(r.ports.server, r.ports.admin, r.dir)
	if r.spec.Traced > 0 {
		config["policy_kernel"].(object)["observability"] = object{"tracing": object{"enabled": true, "endpoint": r.sink(), "sampling_rate": traced}}
	}
	_, err := writeConfig(r.dir, name, config)
	return err
}

// startEngine starts kernel and workers, or the one process that has both.
func (r *Rig) startEngine() error {
	kernel := filepath.Join(r.dir, kernelFile)
	if err := r.writeKernelConfig(kernelFile, r.spec.Traced); err != nil {
		return err
	}
	parts := r.spec.divide()
	var files []string
	for i := range parts {
		config := workerConfig(r.dir, r.dir, i)
		if r.spec.Traced > 0 {
			config["policy_worker"].(object)["observability"] = object{"tracing": object{"enabled": true, "endpoint": r.sink()}}
		}
		file, err := writeConfig(r.dir, workerName(i)+".yaml", config)
		if err != nil {
			return err
		}
		files = append(files, file)
	}
	if r.spec.OneProcess {
		if err := r.start("engine", r.programs.engine(), nil, "--kernel-config", kernel, "--worker-config", files[0]); err != nil {
			return err
		}
		return r.awaitReady("engine")
	}
	for i, part := range parts {
		program, env := r.programs.worker(), []string(nil)
		if r.spec.Workers > 1 || r.spec.Profiled {
			program = r.programs.partWorker()
			env = append(env, "POLICIES="+strings.Join(part, ","))
		}
		if r.spec.Profiled {
			env = append(env, "CONTENTION_PROFILES=on")
		}
		if err := r.start(workerName(i), program, env, "--config", files[i]); err != nil {
			return err
		}
	}
	program := r.programs.kernel()
	if r.spec.Profiled {
		program = r.programs.profiledKernel()
	}
	if err := r.start("kernel", program, nil, "--config", kernel); err != nil {
		return err
	}
	return r.awaitReady("kernel")
}

// Admin is the address of the kernel's admin listener.
func (r *Rig) Admin() string { return net.JoinHostPort(loopback, strconv.Itoa(r.ports.admin)) }

// Profiles are the URLs below which each process of the engine has its profiles.
func (r *Rig) Profiles() map[string]string {
	kernel := "http://" + r.Admin()
	if r.spec.OneProcess {
		return map[string]string{"engine": kernel + "/debug/pprof/"}
	}
	all := map[string]string{"kernel": kernel + "/debug/pprof/"}
	for i := range r.spec.divide() {
		all[workerName(i)] = kernel + "/workers/" + workerName(i) + "/debug/pprof/"
	}
	return all
}
