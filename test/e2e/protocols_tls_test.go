package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

// authority issues certificates, and writes them where programs read them.
type authority struct {
	t    *testing.T
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	file string // its own certificate
}

func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: dir}
	a.key, a.cert = a.issue(name, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.file = filepath.Join(dir, name+".crt")
	return a
}

// issue makes a certificate, by the authority itself if it is there already, and writes NAME.crt and NAME.key.
func (a *authority) issue(name string, template *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	template.Subject = pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(filepath.Join(a.dir, name+file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, cert
}

func (a *authority) server(name, host string) {
	a.t.Helper()
	a.issue(name, &x509.Certificate{DNSNames: []string{host}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
}

func (a *authority) client(name string) {
	a.t.Helper()
	a.issue(name, &x509.Certificate{DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// TestProtocolHTTPS: clients speak HTTPS with Envoy, in either version of HTTP.
func TestProtocolHTTPS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, dir, "ca")
	ca.server("envoy", "e2e.example")
	e := harness.StartEngine(t, harness.Spec{
		Kernel: protocolRoutes, Upstream: &protocolUpstream{next: make(chan struct{})},
		EnvoyArgs: []string{"--tls-cert", filepath.Join(dir, "envoy.crt"), "--tls-key", filepath.Join(dir, "envoy.key")},
		Workers:   []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	})
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(version, func(t *testing.T) {
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "e2e.example"}, Protocols: new(http.Protocols)}
			transport.Protocols.SetHTTP2(version == "HTTP/2.0")
			transport.Protocols.SetHTTP1(version == "HTTP/1.1")
			t.Cleanup(transport.CloseIdleConnections)
			client := &http.Client{Transport: transport, Timeout: harness.Timeout}
			body := bytes.Repeat([]byte{'b'}, 1<<20)
			resp, err := client.Post("https://"+e.Listen+"/both", "application/octet-stream", bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if want := fmt.Sprintf("HTTP/1.1 %d %x", len(body), sha256.Sum256(body)); err != nil || string(got) != want || resp.Proto != version {
				t.Errorf("%s %q, error %v; want %s %q", resp.Proto, got, err, version, want)
			}
			if seen := resp.Header.Get("X-Seen-Back"); !strings.HasPrefix(seen, "200 ") {
				t.Errorf("the policy of the response did not run: %q", seen)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+e.Listen+"/both", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set(harness.MustNotArrive, "denied")
			if resp, err = client.Do(req); err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 403 {
				t.Errorf("denied: %s", resp.Status)
			}
		})
	}
	if r, err := harness.TrySend(e.Listen, http.MethodGet, "/both", mustNotArrive+"no TLS"); err == nil {
		t.Errorf("without TLS: %v", r)
	}
	wantIdle(t, e)
}

const mutualTLS = `policy_kernel:
  server:
    address: 127.0.0.1
    port: "${PORT_KERNEL}"
    transport: "${TRANSPORT}"
    tls: {cert_file: "${E2E_DIR}/kernel.crt", key_file: "${E2E_DIR}/kernel.key", client_ca_file: "${E2E_DIR}/ca.crt"}
  admin: {address: 127.0.0.1, port: "${PORT_ADMIN}"}
`

// TestProtocolMutualTLS: Envoy and kernel know each other by their certificates. Whoever is not known gets no decision, and Envoy lets nothing pass without one.
func TestProtocolMutualTLS(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, server, client string
		edit                 func(string) string
		works                bool
	}{
		{name: "as it should be", server: "kernel.example", client: "envoy", works: true},
		{name: "a client of another authority", server: "kernel.example", client: "stranger"},
		{name: "a server's certificate as client", server: "kernel.example", client: "kernel"},
		{name: "no client certificate", server: "kernel.example", client: "envoy", edit: withoutClientCertificate},
		{name: "the kernel has another name", server: "other.example", client: "envoy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			ca := newAuthority(t, dir, "ca")
			ca.server("kernel", tt.server)
			ca.client("envoy")
			newAuthority(t, dir, "other").client("stranger")
			file := filepath.Join(dir, "kernel.yaml")
			if err := os.WriteFile(file, []byte(mutualTLS+protocolRoutes), 0o600); err != nil {
				t.Fatal(err)
			}
			e := harness.StartEngine(t, harness.Spec{
				KernelFile: file, Env: []string{"E2E_DIR=" + dir}, EditEnvoy: tt.edit,
				EnvoyArgs: []string{
					"--engine-ca", ca.file, "--engine-name", "kernel.example",
					"--engine-cert", filepath.Join(dir, tt.client+".crt"), "--engine-key", filepath.Join(dir, tt.client+".key"),
				},
				Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
			})
			if tt.works {
				r := get(t, e, 200, "/both")
				if r.Header.Get("X-Seen-Back") == "" {
					t.Errorf("the policy of the response did not run: %v", r)
				}
				get(t, e, 403, "/both", mustNotArrive+"denied")
				wantIdle(t, e)
				return
			}
			for range 3 {
				if r := harness.Send(t, e.Listen, http.MethodGet, "/gate"); r.Status != 500 && r.Status != 503 {
					t.Errorf("%v, want 500 or 503", r)
				}
			}
			if n := e.Upstream.Count(); n != 0 {
				t.Errorf("%d requests have reached the upstream", n)
			}
			if m := e.Scrape(); m[`policy_kernel_streams`] != 0 {
				t.Errorf("streams of a stranger: %v", m["policy_kernel_streams"])
			}
		})
	}
}

// withoutClientCertificate takes Envoy's certificate out of its configuration.
func withoutClientCertificate(text string) string {
	before, rest, ok := strings.Cut(text, "tls_certificates:\n")
	if !ok {
		panic("Envoy's configuration has no client certificate")
	}
	indent := before[strings.LastIndexByte(before, '\n')+1:]
	var kept strings.Builder
	in := true
	for line := range strings.Lines(rest) {
		// The list goes on as long as lines are further in, or begin an entry of it.
		if in = in && strings.HasPrefix(line, indent) && strings.ContainsAny(line[len(indent):len(indent)+1], " -"); !in {
			kept.WriteString(line)
		}
	}
	return strings.TrimRight(before, " ") + kept.String()
}
