package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/policies"
)

// bootstraps are the command lines whose output is kept.
var bootstraps = []struct {
	name, kernel string
	args         []string
}{
	{"default", "testdata/envoy/kernel.yaml", nil},
	{"access-log", "testdata/envoy/kernel.yaml", []string{
		"--access-log", "--admin", "", "--listen", "[::]:8443", "--engine", "engine.example:9001",
		"--route", "orders=/v1/orders", "--route", "orders=/v2/orders", "--route", "public=/",
	}},
	{"tls", "testdata/envoy/kernel-tls.yaml", []string{
		"--routes", "testdata/envoy/routes.yaml", "--engine-ca", "/etc/ca.crt", "--engine-name", "engine.example",
		"--engine-cert", "/etc/envoy.crt", "--engine-key", "/etc/envoy.key",
	}},
	{"https", "testdata/envoy/kernel.yaml", []string{"--tls-cert", "/etc/envoy.crt", "--tls-key", "/etc/envoy.key", "--upstream-http2"}},
	{"trusted-hops", "testdata/envoy/kernel-hops.yaml", nil},
	{"two-kernels", "testdata/envoy/kernel.yaml", []string{"--engine", "10.0.0.1:9001,10.0.0.2:9001"}},
	{"bypass", "testdata/envoy/kernel.yaml", []string{"--bypass", "/static", "--owned-header", "X-Organisation"}},
	{"full-duplex", "testdata/envoy/kernel-bodies.yaml", []string{"--full-duplex", "*"}},
	{"full-duplex-one", "testdata/envoy/kernel-bodies.yaml", []string{"--full-duplex", "chat"}},
}

func TestEnvoyBootstraps(t *testing.T) {
	for _, b := range bootstraps {
		t.Run(b.name, func(t *testing.T) {
			expect(t, "envoy/"+b.name+".golden.yaml", succeed(t, append([]string{"envoy", "--kernel", b.kernel}, b.args...)...))
		})
	}
}

// What is printed is without fault by the check of given configurations, which knows what lets requests pass in silence.
func TestEnvoyBootstrapsPassTheCheck(t *testing.T) {
	for _, b := range bootstraps {
		t.Run(b.name, func(t *testing.T) {
			kernel, err := config.LoadKernel(b.kernel)
			if err != nil {
				t.Fatal(err)
			}
			v := &validation{kernel: kernel}
			notes, err := v.checkEnvoy("testdata/envoy/" + b.name + ".golden.yaml")
			notes = slices.DeleteFunc(notes, func(note string) bool {
				return b.name == "bypass" && strings.HasSuffix(note, `requests of route "bypass /static" pass by the engine here, without policies`)
			})
			if err != nil || len(v.found) > 0 || len(notes) > 0 {
				t.Errorf("%v %v %v", err, v.found, notes)
			}
		})
	}
}

func TestEnvoyTakesTheBootstraps(t *testing.T) {
	envoy := os.Getenv("ENVOY")
	if envoy == "" {
		t.Skip("ENVOY does not name an Envoy")
	}
	dir := t.TempDir()
	certificate, key := selfSigned(t, dir)
	files := strings.NewReplacer("/etc/ca.crt", certificate, "/etc/envoy.crt", certificate, "/etc/envoy.key", key)
	for _, b := range bootstraps {
		t.Run(b.name, func(t *testing.T) {
			text, err := os.ReadFile("testdata/envoy/" + b.name + ".golden.yaml")
			if err != nil {
				t.Fatal(err)
			}
			file := writeFile(t, filepath.Join(dir, b.name+".yaml"), files.Replace(string(text)))
			out, err := exec.Command(envoy, "--mode", "validate", "--config-path", file).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			if strings.Contains(string(out), "[warning]") {
				t.Errorf("Envoy warns:\n%s", out)
			}
		})
	}
}

// selfSigned writes a certificate and its key, for who reads such files.
func selfSigned(t *testing.T, dir string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"engine.example"}, NotBefore: testNow.Add(-time.Hour), NotAfter: testNow.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate = writeFile(t, filepath.Join(dir, "tls.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	key = writeFile(t, filepath.Join(dir, "tls.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	return certificate, key
}

func TestEnvoyWithThousandsOfRoutes(t *testing.T) {
	const n = 5000
	var text strings.Builder
	text.WriteString("policy_kernel:\n  workers: [{name: w, socket_path: /run/w.sock}]\n  route_policies:\n")
	for i := range n {
		fmt.Fprintf(&text, "    - {route_name: r%d, request_flow: {policy_chain: [{policy: p}]}}\n", i)
	}
	file := writeFile(t, filepath.Join(t.TempDir(), "k.yaml"), text.String())
	out := succeed(t, "envoy", "--config", file)
	if got := strings.Count(out, "key: x-policy-route"); got != n+1 {
		t.Errorf("%d routes have a name, want %d and the one for all others", got, n)
	}
	if got := strings.Count(out, "path_separated_prefix: "); got != n {
		t.Errorf("%d routes, want %d", got, n)
	}
}

func TestEnvoyRefuses(t *testing.T) {
	dir := t.TempDir()
	spaces := writeFile(t, dir+"/spaces.yaml", "policy_kernel:\n  route_policies: [{route_name: a b}, {route_name: ../x}]\n")
	empty := writeFile(t, dir+"/empty.yaml", "policy_kernel: {}\n")
	routes := func(name, text string) string { return writeFile(t, filepath.Join(dir, name), text) }
	const plain, tls = "testdata/envoy/kernel.yaml", "testdata/envoy/kernel-tls.yaml"
	tests := []struct {
		name, kernel string
		args         []string
		status       int
		want         string
	}{
		{"mistake in the kernel's file", routes("bad.yaml", "policy_kernel: {port: 1}\n"), nil, exitUsage, "bad.yaml:1: policy_kernel.port: unknown key"},
		{"no routes", empty, nil, exitUsage, "there are no routes"},
		{"names that are no paths", spaces, nil, exitUsage, `"/a b" is not a prefix`},
		{"dots", spaces, nil, exitUsage, `"/../x" is not a prefix`},
		{"unknown route", plain, []string{"--route", "x=/x"}, exitUsage, `--route: "x" is not a route of testdata/envoy/kernel.yaml; legal are public, orders`},
		{"no prefix", plain, []string{"--route", "orders"}, exitUsage, `legal is NAME=/PREFIX`},
		{"escaped prefix", plain, []string{"--route", "orders=/%6frders"}, exitUsage, `"/%6frders" is not a prefix`},
		{"double slash", plain, []string{"--route", "orders=//x"}, exitUsage, "Envoy merges slashes"},
		{"query", plain, []string{"--route", "orders=/x?y"}, exitUsage, `"/x?y" is not a prefix`},
		{"prefix twice", plain, []string{"--route", "orders=/x", "--route", "public=/x"}, exitUsage, `the prefix "/x" is there twice, for route "orders" and route "public"`},
		{"no routes file", plain, []string{"--routes", dir + "/none"}, exitFailed, "read routes: "},
		{"unknown key of a route", plain, []string{"--routes", routes("r1", "- {route: orders, path: /x}\n")}, exitUsage, "field path not found"},
		{"bad upstream of a route", plain, []string{"--routes", routes("r2", "- {route: orders, prefix: /x, upstream: y}\n")}, exitUsage, `r2: [0]: upstream "y" is not an address`},
		{"empty routes file", plain, []string{"--routes", routes("r3", "[]\n")}, exitUsage, "there are no routes"},
		{"listen", plain, []string{"--listen", "10000"}, exitUsage, `--listen "10000" is not an address`},
		{"listen on a socket", plain, []string{"--listen", "/run/x.sock"}, exitUsage, `--listen "/run/x.sock" is not an address; legal is HOST:PORT`},
		{"admin", plain, []string{"--admin", "localhost:0"}, exitUsage, `--admin "localhost:0" is not an address`},
		{"engine", plain, []string{"--engine", "a b:1"}, exitUsage, `--engine "a b:1" is not an address; legal is HOST:PORT or the path of a Unix socket`},
		{"upstream", plain, []string{"--upstream", "x:70000"}, exitUsage, `--upstream "x:70000" is not an address`},
		{"engine twice", plain, []string{"--engine", "a:1,a:1"}, exitUsage, `--engine: "a:1" is there twice`},
		{"TLS without authority", tls, nil, exitUsage, "the kernel has TLS; --engine-ca and --engine-name are required"},
		{"TLS without client certificate", tls, []string{"--engine-ca", "a", "--engine-name", "b"}, exitUsage, "the kernel wants client certificates"},
		{"half a client certificate", tls, []string{"--engine-ca", "a", "--engine-name", "b", "--engine-key", "k"}, exitUsage, "legal together only"},
		{"half a certificate for clients", plain, []string{"--tls-cert", "c"}, exitUsage, "--tls-cert and --tls-key are legal together only"},
		{"full duplex of no route", plain, []string{"--full-duplex", "x"}, exitUsage, `--full-duplex "x" is not a route of testdata/envoy/kernel.yaml; legal are * and public, orders`},
		{"full duplex without bodies", "testdata/envoy/kernel-bodies.yaml", []string{"--full-duplex", "plain"}, exitUsage, `--full-duplex "plain": no policy of that route takes part in a body`},
		{"authority without TLS", plain, []string{"--engine-ca", "a"}, exitUsage, "its configuration has none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := run(t, "", append([]string{"envoy", "--kernel", tt.kernel}, tt.args...)...)
			if r.status != tt.status || !strings.Contains(r.stderr, tt.want) || r.stdout != "" {
				t.Errorf("got %+v, want %d and %q", r, tt.status, tt.want)
			}
		})
	}
}

func TestMessageTimeoutIsAboveTheWorkers(t *testing.T) {
	worker := func(d time.Duration) config.WorkerRef { return config.WorkerRef{Timeout: d} }
	chain := func(n int) config.Flow {
		return config.Flow{Chain: slices.Repeat([]config.Policy{{Name: "modifyHeaders"}}, n)}
	}
	unknown := config.Flow{Chain: []config.Policy{{Name: "ofAnotherWorker"}}}
	tests := []struct {
		name string
		k    config.Kernel
		want time.Duration
	}{
		{"no workers", config.Kernel{}, 750 * time.Millisecond},
		{"one worker makes one call", config.Kernel{Workers: []config.WorkerRef{worker(time.Second)}, Routes: []config.Route{{Request: chain(3)}}}, 1250 * time.Millisecond},
		{
			"workers may alternate",
			config.Kernel{Workers: []config.WorkerRef{worker(time.Second), worker(2 * time.Second)}, Routes: []config.Route{{Request: chain(3)}, {Response: chain(4)}}},
			8250 * time.Millisecond,
		},
		{"policies that may take bodies", config.Kernel{Workers: []config.WorkerRef{worker(time.Second)}, Routes: []config.Route{{Request: unknown}}}, 4250 * time.Millisecond},
		{"Envoy's limit", config.Kernel{Workers: []config.WorkerRef{worker(5 * time.Minute), worker(1)}, Routes: []config.Route{{Request: chain(50)}}}, time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := leastMessageTimeout(&tt.k, newCatalogue()); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			// The printed one also has room for a burst, within Envoy's limit.
			want := min(tt.want+printedMargin-leastMargin, time.Hour)
			if got := printedMessageTimeout(&tt.k, newCatalogue()); got != want || want < tt.want {
				t.Errorf("printed %v, want %v", got, want)
			}
		})
	}
}

func TestWholeBodiesAreAskedForFromTheStart(t *testing.T) {
	c := newCatalogue()
	whole := policies.Define("whole", "1", func(policies.Env, struct{}) (wholeBody, error) { return wholeBody{}, nil })
	c["whole"] = whole
	flow := func(mode config.ProcessingMode, names ...string) config.Flow {
		f := config.Flow{Mode: mode}
		for _, name := range names {
			f.Chain = append(f.Chain, config.Policy{Name: name})
		}
		return f
	}
	tests := []struct {
		name string
		r    config.Route
		want bool
	}{
		{"no policy", config.Route{}, false},
		{"headers only", config.Route{Request: flow("", "apiKeyAuth")}, false},
		{"not known", config.Route{Request: flow("", "ofAnotherWorker")}, false},
		{"not known, and configured", config.Route{Request: flow(config.ProcessingModeBuffered, "ofAnotherWorker")}, true},
		{"known", config.Route{Request: flow("", "apiKeyAuth", "whole")}, true},
		{"of the response", config.Route{Response: flow(config.ProcessingModeBuffered, "whole")}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := c.wantsWholeRequest(&tt.r); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	if mode := processingMode(false, true).RequestBodyMode; mode != extprocv3.ProcessingMode_BUFFERED {
		t.Errorf("mode %v", mode)
	}
}

type wholeBody struct{}

func (wholeBody) OnRequestBody(context.Context, *policies.Request) (policies.Verdict, error) {
	return policies.Continue(), nil
}
