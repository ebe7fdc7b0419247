package conformance

import (
	"crypto/x509"
	"fmt"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
	"github.com/policy-engine/policy-engine/test/tap"
)

// engine is an engine with a route for each scenario.
type engine struct {
	*harness.Engine
	upstream *upstream
	routes   map[string]string
	listen   string
	// tlsListen takes connections with TLS; roots know its certificate.
	tlsListen string
	roots     *x509.CertPool
	// certFile and keyFile are for that.
	certFile, keyFile string
}

func (e *engine) routeOf(s *scenario) string { return e.routes[s.name] }

const kernelHead = `  limits: {max_body_size: 64KiB}
  workers:
    - {name: worker-a, socket_path: "${RUN_DIR}/a.sock", timeout: 500ms}
    - {name: worker-b, socket_path: "${RUN_DIR}/b.sock", timeout: 500ms}
  route_policies:
`

// kernelRoutes gives each scenario a route, and writes it down.
func kernelRoutes(scenarios []*scenario) (names map[string]string, yaml string) {
	names = map[string]string{}
	var b strings.Builder
	flow := func(name string, s *scenario, chain []string) {
		if len(chain) == 0 {
			return
		}
		fmt.Fprintf(&b, "      %s:\n", name)
		if s.processing != "" {
			fmt.Fprintf(&b, "        processing_mode: %s\n", s.processing)
		}
		b.WriteString("        policy_chain:\n")
		for _, policy := range chain {
			fmt.Fprintf(&b, "          - %s\n", policy)
		}
	}
	for i, s := range scenarios {
		if s.at != "" {
			names[s.name] = s.at
			continue
		}
		name := fmt.Sprintf("s%03d", i+1)
		names[s.name] = name
		fmt.Fprintf(&b, "    - route_name: %s\n", name)
		flow("request_flow", s, s.request)
		flow("response_flow", s, s.response)
	}
	return names, b.String()
}

func testWorker(name, suffix string) harness.WorkerSpec {
	return harness.WorkerSpec{
		Name: name, Program: "testworker", Worker: "worker-" + name, Env: []string{harness.SuffixVariable + "=" + suffix},
		Config: fmt.Sprintf("  name: worker-%s\n  socket_path: ${RUN_DIR}/%s.sock\n", name, name),
	}
}

// engineOptions are what is not as usual.
type engineOptions struct {
	falsify tap.Falsify
	absent  []string
	envoy   []string
}

// startEngine starts Envoy, the kernel and two workers, whose policies' names end in A and B.
func startEngine(t testing.TB, transport string, scenarios []*scenario, o engineOptions) *engine {
	t.Helper()
	up := startUpstream(t, scenarios)
	routes, yaml := kernelRoutes(scenarios)
	e := &engine{upstream: up, routes: routes, tlsListen: fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))}
	e.makeCertificate(t)
	e.Engine = harness.StartEngine(t, harness.Spec{
		Kernel: kernelHead + yaml, EnvoyKernel: kernelHead + yaml + "    - route_name: stranger\n",
		Workers:   []harness.WorkerSpec{testWorker("a", "A"), testWorker("b", "B")},
		EnvoyArgs: append([]string{"--upstream", up.address, "--access-log"}, o.envoy...),
		EditEnvoy: e.editEnvoy, Transport: transport, Falsify: o.falsify, Absent: o.absent,
	})
	e.listen = e.Listen
	return e
}
