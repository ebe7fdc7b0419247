package listener

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/policy-engine/policy-engine/config"
)

// put writes a certificate that signs itself, and its key.
func put(t *testing.T, certFile, keyFile, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	for file, text := range map[string][]byte{certFile: certPEM, keyFile: keyPEM} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// handshake returns the name of the server's certificate.
func handshake(t *testing.T, server *tls.Config, client tls.Certificate) (string, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	result := make(chan error, 1)
	go func() {
		nc, err := l.Accept()
		if err == nil {
			defer nc.Close()
			err = tls.Server(nc, server).Handshake()
		}
		result <- err
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := tls.Client(nc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{client}})
	name := ""
	if err := c.Handshake(); err == nil {
		name = c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	return name, <-result
}

func TestCertificatesAreFollowed(t *testing.T) {
	dir := t.TempDir()
	files := config.TLS{CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key"), ClientCAFile: filepath.Join(dir, "ca")}
	put(t, files.CertFile, files.KeyFile, "first")
	alice := put(t, files.ClientCAFile, filepath.Join(dir, "alice"), "alice")
	core, logs := observer.New(zap.ErrorLevel)
	now := time.Now()
	outer, err := TLS(files, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	c := &certificates{files: files, log: zap.New(core), now: func() time.Time { return now }, looked: now}
	if c.current, err = read(files); err != nil {
		t.Fatal(err)
	}
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.config(), nil }
	expect := func(when, want string, client tls.Certificate, ok bool) {
		t.Helper()
		name, err := handshake(t, outer, client)
		if (err == nil) != ok || ok && name != want {
			t.Errorf("%s: certificate %q, %v; want %q, good %t", when, name, err, want, ok)
		}
	}
	expect("at first", "first", alice, true)
	put(t, files.CertFile, files.KeyFile, "second")
	expect("at once", "first", alice, true)
	now = now.Add(lookAgain)
	expect("after a while", "second", alice, true)

	other := filepath.Join(dir, "other")
	put(t, other, filepath.Join(dir, "other-key"), "third")
	third, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"without its key": third, "garbage": bytes.Repeat([]byte{0xff}, 99)} {
		if err := os.WriteFile(files.CertFile, text, 0o600); err != nil {
			t.Fatal(err)
		}
		before := logs.Len()
		for range 3 {
			now = now.Add(lookAgain)
			expect(name, "second", alice, true)
		}
		if logs.Len() != before+1 {
			t.Errorf("%s: %d lines", name, logs.Len()-before)
		}
	}
	put(t, files.CertFile, files.KeyFile, "fourth")
	bob := put(t, files.ClientCAFile, filepath.Join(dir, "bob"), "bob")
	now = now.Add(lookAgain)
	expect("a client whose authority is gone", "", alice, false)
	expect("a client of the new authority", "fourth", bob, true)
	expect("a client without a certificate", "", tls.Certificate{}, false)
}

func TestBadCertificatesAtTheStart(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	put(t, cert, key, "good")
	for name, files := range map[string]config.TLS{
		"no certificate": {CertFile: "/nowhere", KeyFile: key}, "no key": {CertFile: cert, KeyFile: "/nowhere"}, "a folder": {CertFile: dir, KeyFile: key},
		"no authority": {CertFile: cert, KeyFile: key, ClientCAFile: "/nowhere"}, "an authority without certificates": {CertFile: cert, KeyFile: key, ClientCAFile: key},
	} {
		if _, err := TLS(files, zap.NewNop()); err == nil {
			t.Errorf("%s is good", name)
		}
	}
}

// TestCertificatesThatAnybodyMayWrite checks each file alone: who can write one chooses the server's key or its clients.
func TestCertificatesThatAnybodyMayWrite(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	put(t, cert, key, "good")
	ca := filepath.Join(dir, "ca")
	content, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca, content, 0o600); err != nil {
		t.Fatal(err)
	}
	files := config.TLS{CertFile: cert, KeyFile: key, ClientCAFile: ca}
	if _, err := read(files); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{cert, key, ca} {
		if err := os.Chmod(file, 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := TLS(files, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "must not be writable by other users") {
			t.Errorf("%s: %v", filepath.Base(file), err)
		}
		if err := os.Chmod(file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
