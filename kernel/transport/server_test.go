package transport

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/codec"
	"github.com/policy-engine/policy-engine/kernel/listener"
	"github.com/policy-engine/policy-engine/kernel/route"
)

func TestDrainInTime(t *testing.T) {
	r := newRig(t)
	f := r.stream(t.Context())
	f.send("answer")
	f.expect("answered")
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		ctx, cancel := context.WithTimeout(context.Background(), bound)
		defer cancel()
		r.server.Drain(ctx)
	}()
	eventually(t, "nobody can connect any more", func() bool {
		c, err := net.Dial("tcp", r.listener.Addr().String())
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	select {
	case <-drained:
		t.Fatal("drained with an open stream")
	default:
	}
	f.send("finish")
	f.expect("finished")
	f.expectEnd(codes.OK)
	<-drained
	if r.log.count("drain") != 0 || r.log.count("abort") != 0 {
		t.Error("a stream that ended in time was refused")
	}
}

func TestDrainTooLate(t *testing.T) {
	r := newRig(t)
	waiting := r.stream(t.Context())
	waiting.send("answer")
	waiting.expect("answered")
	calling := r.stream(t.Context())
	calling.send("call")
	c := <-r.evaluator.calls
	panicking := r.stream(t.Context())
	panicking.send("panic in drain")
	d := <-r.evaluator.calls
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r.server.Drain(ctx)
	calling.expect("refused")
	calling.expectEnd(codes.OK) // The answer is the refusal.
	panicking.expectEnd(codes.Internal)
	var frame codec.Frame
	if err := waiting.RecvMsg(&frame); err == nil || err == io.EOF {
		t.Errorf("an undecided stream ended with %q, %v", frame.B, err)
	}
	if r.log.count("close") != 1 {
		t.Errorf("%d machines closed, want 1: two calls are outstanding", r.log.count("close"))
	}
	r.complete(c, &workerv1.Result{}, nil)
	r.complete(d, nil, route.ErrTimeout)
	r.expectIdle(3)
}

func TestHealth(t *testing.T) {
	r := newRig(t)
	client := healthv1.NewHealthClient(r.client)
	for _, service := range []string{"", serviceName} {
		resp, err := client.Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
		if err != nil || resp.Status != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("service %q: %v, %v", service, resp, err)
		}
	}
	watch, err := client.Watch(t.Context(), &healthv1.HealthCheckRequest{Service: serviceName})
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := watch.Recv(); err != nil || resp.Status != healthv1.HealthCheckResponse_SERVING {
		t.Fatalf("%v, %v", resp, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	go r.server.Drain(ctx)
	if resp, err := watch.Recv(); err != nil || resp.Status != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("after the drain began: %v, %v", resp, err)
	}
	<-ctx.Done()
}

func TestUnknownMethods(t *testing.T) {
	r := newRig(t)
	for _, method := range []string{"/" + serviceName + "/Other", "/envoy.service.auth.v3.Authorization/Check", "/x/y"} {
		err := r.client.Invoke(t.Context(), method, &codec.Frame{}, &codec.Frame{})
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestForeignBytesEndOnlyTheirConnection(t *testing.T) {
	tests := []struct {
		name  string
		bytes string
	}{
		{"HTTP/1", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"random", "\x00\xff\x13\x37" + strings.Repeat("\xaa\x55", 100)},
		{"garbage after the preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\xff", 100)},
		{"TLS", "\x16\x03\x01\x00\x05hello, here is a client hello that is none"},
	}
	r := newRig(t)
	f := r.stream(t.Context())
	f.send("answer")
	f.expect("answered")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := net.Dial("tcp", r.listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(bound))
			if _, err := io.WriteString(c, tt.bytes); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, bufio.NewReader(c)); os.IsTimeout(err) {
				t.Error("the connection was not closed")
			}
		})
	}
	f.send("finish")
	f.expect("finished")
	f.expectEnd(codes.OK)
}

func TestTooLongMessage(t *testing.T) {
	r := newRig(t)
	f := r.stream(t.Context())
	f.send(strings.Repeat("x", maxMessage+1))
	f.expectEnd(codes.ResourceExhausted)
	if r.log.count("message") != 0 {
		t.Error("the machine got it")
	}
}

// authority makes certificates.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.issue("ca", nil)
	return a
}

// issue writes NAME.pem and NAME.key.
func (a *authority) issue(name string, usage []x509.ExtKeyUsage) (certFile, keyFile string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: usage == nil, BasicConstraintsValid: true, ExtKeyUsage: usage, DNSNames: []string{"kernel"}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	parent, signer := a.cert, a.key
	if usage == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if usage == nil {
		a.key = key
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			a.t.Fatal(err)
		}
	}
	encoded, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: encoded}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func TestTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	serverCert, serverKey := ours.issue("server", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth})
	client := func(a *authority) []tls.Certificate {
		c, err := tls.LoadX509KeyPair(a.issue("client", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}))
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{c}
	}
	clientCA := filepath.Join(ours.dir, "ca.pem")
	tests := []struct {
		name   string
		mutual bool
		creds  credentials.TransportCredentials
		ok     bool
	}{
		{"TLS", false, credentials.NewTLS(&tls.Config{RootCAs: ours.pool(), ServerName: "kernel"}), true},
		{"plain text", false, insecure.NewCredentials(), false},
		{"TLS 1.1", false, credentials.NewTLS(&tls.Config{RootCAs: ours.pool(), ServerName: "kernel", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}), false},
		{"mutual TLS", true, credentials.NewTLS(&tls.Config{RootCAs: ours.pool(), ServerName: "kernel", Certificates: client(ours)}), true},
		{"no client certificate", true, credentials.NewTLS(&tls.Config{RootCAs: ours.pool(), ServerName: "kernel"}), false},
		{"client certificate of another authority", true, credentials.NewTLS(&tls.Config{RootCAs: ours.pool(), ServerName: "kernel", Certificates: client(theirs)}), false},
		{"plain text against mutual TLS", true, insecure.NewCredentials(), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &rig{t: t, evaluator: evaluator{calls: make(chan *route.Call, 1)}}
			cfg := config.Server{Address: "127.0.0.1", MaxConcurrentStreams: 10, TLS: config.TLS{CertFile: serverCert, KeyFile: serverKey}}
			if tt.mutual {
				cfg.TLS.ClientCAFile = clientCA
			}
			r.start(cfg)
			r.client = r.dial(grpc.WithTransportCredentials(tt.creds))
			ctx, cancel := context.WithTimeout(t.Context(), bound)
			defer cancel()
			resp, err := healthv1.NewHealthClient(r.client).Check(ctx, &healthv1.HealthCheckRequest{})
			if ok := err == nil && resp.Status == healthv1.HealthCheckResponse_SERVING; ok != tt.ok {
				t.Errorf("got %v, %v", resp, err)
			}
		})
	}
}

func TestBadTLSFiles(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.issue("server", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth})
	tests := []struct {
		name string
		tls  config.TLS
	}{
		{"no such certificate", config.TLS{CertFile: "missing", KeyFile: key}},
		{"the key of another", config.TLS{CertFile: cert, KeyFile: filepath.Join(a.dir, "ca.key")}},
		{"no such client CA", config.TLS{CertFile: cert, KeyFile: key, ClientCAFile: "missing"}},
		{"a client CA without a certificate", config.TLS{CertFile: cert, KeyFile: key, ClientCAFile: key}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := New(Options{Config: config.Server{Transport: name(), TLS: tt.tls}}); err == nil {
				t.Error("it was accepted")
			}
		})
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kernel.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	r := &rig{t: t, evaluator: evaluator{calls: make(chan *route.Call, 1)}}
	r.start(config.Server{SocketPath: path, MaxConcurrentStreams: 10}) // in place of the stale one
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	r.client = r.dial(grpc.WithTransportCredentials(insecure.NewCredentials()))
	f := r.stream(t.Context())
	f.send("finish")
	f.expect("finished")
	f.expectEnd(codes.OK)
	if _, err := listener.Open(config.Server{SocketPath: path}); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Errorf("a second listener: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listener.Open(config.Server{SocketPath: file}); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file in the way: %v", err)
	}
}
