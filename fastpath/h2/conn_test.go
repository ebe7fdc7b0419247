package h2

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/policy-engine/policy-engine/fastpath/codec"
)

// TestIdlePing: a silent peer is asked, and disconnected when it does not answer; one that answers stays.
func TestIdlePing(t *testing.T) {
	noLeaks(t)
	addr, srv := startServer(t, Config{IdlePing: 60 * time.Millisecond}, echoHandler{})
	p := newPeer(t, addr)
	pings := 0
	p.until("three PINGs", func(f http2.Frame) bool {
		g, ok := f.(*http2.PingFrame)
		if ok && !g.IsAck() {
			pings++
			if pings < 3 {
				p.must(p.fr.WritePing(true, g.Data))
			}
		}
		return pings == 3
	})
	start := time.Now()
	p.goAway()
	eventually(t, "the connection is forgotten", func() bool { return len(srv.connections()) == 0 })
	if took := time.Since(start); took > patience/2 {
		t.Errorf("closed after %v", took)
	}
	// Bytes that never become a frame are no sign of life.
	q := newPeer(t, addr)
	q.until("SETTINGS acknowledgement", func(f http2.Frame) bool {
		s, ok := f.(*http2.SettingsFrame)
		return ok && s.IsAck()
	})
	go func() {
		for _, b := range rawFrame(frameData, 0, 1, make([]byte, maxFrameSize)) {
			if _, err := q.nc.Write([]byte{b}); err != nil {
				return
			}
			<-time.After(time.Millisecond)
		}
	}()
	q.goAway()
}

// TestConnectionLimit: connections past the limit are closed, and the others go on.
func TestConnectionLimit(t *testing.T) {
	addr, srv := startServer(t, Config{MaxConnections: 2}, echoHandler{})
	cc := dial(t, addr)
	honest(t, cc)
	p := newPeer(t, addr)
	p.ping()
	for range 20 {
		q := rawPeer(t, addr)
		q.goAway()
		q.nc.Close()
	}
	honest(t, cc)
	p.nc.Close()
	eventually(t, "one connection", func() bool { return len(srv.connections()) == 1 })
	newPeer(t, addr).ping()
}

// TestUnixSocket: one server serves TCP and a Unix socket.
func TestUnixSocket(t *testing.T) {
	noLeaks(t)
	srv := NewServer(Config{}, echoHandler{})
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	tl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	for _, l := range []net.Listener{l, tl} {
		serving.Add(1)
		go func() {
			defer serving.Done()
			if err := srv.Serve(l); err != ErrServerClosed {
				t.Errorf("Serve: %v", err)
			}
		}()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, target := range []string{"unix:" + path, "passthrough:///" + tl.Addr().String()} {
		cc := dialTarget(t, target)
		if err := echoOnce(ctx, cc, make([]byte, 1<<20)); err != nil {
			t.Error(target, err)
		}
		cc.Close()
	}
	srv.Close()
	serving.Wait()
	if err := srv.Serve(l); err != ErrServerClosed {
		t.Errorf("Serve after Close: %v", err)
	}
}

// authority makes certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	a := &authority{pool: x509.NewCertPool()}
	a.cert, a.key = a.issue(t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) issue(t testing.TB, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) leaf(t testing.TB, usage x509.ExtKeyUsage) tls.Certificate {
	cert, key := a.issue(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{usage}, KeyUsage: x509.KeyUsageDigitalSignature,
	})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func TestTLS(t *testing.T) {
	noLeaks(t)
	a, foreign := newAuthority(t), newAuthority(t)
	client := a.leaf(t, x509.ExtKeyUsageClientAuth)
	for _, tc := range []struct {
		name   string
		mutual bool
		client *tls.Config
		ok     bool
	}{
		{"server's certificate only", false, &tls.Config{NextProtos: []string{"h2"}}, true},
		{"TLS 1.2", false, &tls.Config{NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12}, true},
		{"TLS 1.1", false, &tls.Config{NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		{"no ALPN", false, &tls.Config{}, false},
		{"ALPN of HTTP/1", false, &tls.Config{NextProtos: []string{"http/1.1"}}, false},
		{"mutual", true, &tls.Config{NextProtos: []string{"h2"}, Certificates: []tls.Certificate{client}}, true},
		{"mutual without a certificate", true, &tls.Config{NextProtos: []string{"h2"}}, false},
		{"mutual with a foreign certificate", true, &tls.Config{NextProtos: []string{"h2"}, Certificates: []tls.Certificate{foreign.leaf(t, x509.ExtKeyUsageClientAuth)}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			serverTLS := &tls.Config{Certificates: []tls.Certificate{a.leaf(t, x509.ExtKeyUsageServerAuth)}}
			if tc.mutual {
				serverTLS.ClientAuth, serverTLS.ClientCAs = tls.RequireAndVerifyClientCert, a.pool
			}
			addr, srv := startServer(t, Config{TLS: serverTLS, HandshakeTimeout: time.Second}, echoHandler{})
			conf := tc.client.Clone()
			conf.RootCAs, conf.ServerName = a.pool, "localhost"
			raw, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			p := peerOn(t, tls.Client(raw, conf))
			_, _ = p.nc.Write(append([]byte(preface), rawFrame(frameSettings, 0, 0, nil)...))
			if !tc.ok {
				if _, err := p.fr.ReadFrame(); err == nil {
					t.Error("a frame came")
				}
				eventually(t, "the connection is forgotten", func() bool { return len(srv.connections()) == 0 })
				return
			}
			p.open(1, "/test/Echo")
			p.data(1, true, message(strings.Repeat("m", 10_000)))
			if o := p.outcome(1); o.fields["grpc-status"] != "0" || len(o.data) != 10_005 {
				t.Errorf("outcome: %v, %d bytes", o.fields, len(o.data))
			}
			p.write(rawFrame(framePing, 0, 0, nil)) // The GOAWAY of an error arrives over TLS, too.
			if code, ok := p.goAway(); !ok || code != http2.ErrCodeFrameSize {
				t.Errorf("GOAWAY %v with %v", ok, code)
			}
		})
	}
	t.Run("grpc-go", func(t *testing.T) {
		addr, srv := startServer(t, Config{TLS: &tls.Config{Certificates: []tls.Certificate{a.leaf(t, x509.ExtKeyUsageServerAuth)}}}, echoHandler{})
		cc := dialTarget(t, "passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: a.pool, ServerName: "localhost"})))
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := echoOnce(ctx, cc, make([]byte, 2<<20)); err != nil {
			t.Error(err)
		}
		if err := srv.Drain(ctx); err != nil {
			t.Error("drain:", err)
		}
	})
	t.Run("silence instead of a handshake", func(t *testing.T) {
		addr, srv := startServer(t, Config{HandshakeTimeout: 50 * time.Millisecond, TLS: &tls.Config{Certificates: []tls.Certificate{a.leaf(t, x509.ExtKeyUsageServerAuth)}}}, echoHandler{})
		p := rawPeer(t, addr)
		p.goAway()
		eventually(t, "the connection is forgotten", func() bool { return len(srv.connections()) == 0 })
	})
}

// TestBandwidthPings: grpc-go sends a PING for DATA that it gets; a busy connection has thousands a second.
func TestBandwidthPings(t *testing.T) {
	addr, _ := startServer(t, Config{}, echoHandler{})
	p := newPeer(t, addr)
	p.open(1, "/test/Echo")
	for range 5000 {
		p.data(1, false, message("x"))
		p.ping()
	}
}

func dialTarget(t testing.TB, target string, o ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec.Codec{}), grpc.MaxCallRecvMsgSize(64<<20)),
	}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}
