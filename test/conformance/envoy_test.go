package conformance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// editEnvoy adds to the configuration that policyctl prints what the scenarios need of Envoy, and the engine does not.
func (e *engine) editEnvoy(text string) string {
	var config map[string]any
	if err := yaml.Unmarshal([]byte(text), &config); err != nil {
		panic(fmt.Sprintf("read Envoy's configuration: %v", err))
	}
	for _, c := range find(config, "static_resources", "clusters").([]any) {
		cluster := c.(map[string]any)
		if cluster["name"] == "policy_engine" {
			continue
		}
		// The upstream is spoken to as the client speaks: gRPC needs HTTP/2 all the way.
		cluster["typed_extension_protocol_options"] = map[string]any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": map[string]any{
			"@type":                          "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
			"use_downstream_protocol_config": map[string]any{"http_protocol_options": map[string]any{}, "http2_protocol_options": map[string]any{}},
		}}
	}
	resources := config["static_resources"].(map[string]any)
	resources["listeners"] = append(resources["listeners"].([]any), e.withTLS(resources["listeners"].([]any)[0]))
	out, err := yaml.Marshal(config)
	if err != nil {
		panic(fmt.Sprintf("write Envoy's configuration: %v", err))
	}
	return string(out)
}

// withTLS is a listener like the given one on another port, for HTTPS.
func (e *engine) withTLS(plain any) any {
	text, err := yaml.Marshal(plain)
	if err != nil {
		panic(fmt.Sprintf("write a listener: %v", err))
	}
	var listener map[string]any
	if err := yaml.Unmarshal(text, &listener); err != nil {
		panic(fmt.Sprintf("read a listener: %v", err))
	}
	port, err := strconv.Atoi(e.tlsListen[strings.LastIndexByte(e.tlsListen, ':')+1:])
	if err != nil {
		panic(err)
	}
	listener["name"] = "ingress_tls"
	find(listener, "address", "socket_address").(map[string]any)["port_value"] = port
	listener["filter_chains"].([]any)[0].(map[string]any)["transport_socket"] = map[string]any{
		"name": "envoy.transport_sockets.tls",
		"typed_config": map[string]any{
			"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
			"common_tls_context": map[string]any{
				"alpn_protocols": []any{"h2", "http/1.1"},
				"tls_certificates": []any{map[string]any{
					"certificate_chain": map[string]any{"filename": e.certFile}, "private_key": map[string]any{"filename": e.keyFile},
				}},
			},
		},
	}
	return listener
}

// makeCertificate makes a certificate for conformance.example, which signs itself.
func (e *engine) makeCertificate(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"conformance.example"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, content []byte) (string, []byte) {
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content})
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name), text
	}
	var cert []byte
	e.certFile, cert = write("cert.pem", "CERTIFICATE", der)
	e.keyFile, _ = write("key.pem", "PRIVATE KEY", encoded)
	e.roots = x509.NewCertPool()
	e.roots.AppendCertsFromPEM(cert)
}

// find walks down maps, and the first element of lists.
func find(in any, names ...string) any {
	for _, name := range names {
		if list, ok := in.([]any); ok {
			in = list[0]
		}
		in = in.(map[string]any)[name]
	}
	return in
}
