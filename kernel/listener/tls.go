package listener

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/filemode"
	"github.com/policy-engine/policy-engine/watch"
)

const (
	// lookAgain is how long files of certificates are taken for unchanged: handshakes are rare, a flood of them must not become one of reads.
	lookAgain = time.Second
	// maxPEM is the longest file of certificates or keys, in bytes.
	maxPEM = 4 << 20
)

// TLS reads the certificates; without a certificate file it is nil. With a client CA, clients without a certificate of it are refused. The files are looked at again with later handshakes: what is
// good is used from then on, and what is not leaves the last good certificates in use.
func TLS(cfg config.TLS, log *zap.Logger) (*tls.Config, error) {
	if cfg.CertFile == "" {
		return nil, nil
	}
	c := &certificates{files: cfg, log: log, now: time.Now}
	var err error
	if c.current, err = read(cfg); err != nil {
		return nil, err
	}
	c.looked = c.now()
	outer := c.current.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.config(), nil }
	return outer, nil
}

// certificates are those in use.
type certificates struct {
	files config.TLS
	log   *zap.Logger
	now   func() time.Time

	mu      sync.Mutex
	current *tls.Config
	looked  time.Time
	failure string // the last one that was logged; empty after a success
}

// config is what a handshake uses.
func (c *certificates) config() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if now.Sub(c.looked) < lookAgain {
		return c.current
	}
	c.looked = now
	next, err := read(c.files)
	if err != nil {
		if c.failure != err.Error() {
			c.failure = err.Error()
			c.log.Error("certificates not loaded; what was loaded before stays in use", zap.Error(err))
		}
		return c.current
	}
	c.current, c.failure = next, ""
	return c.current
}

// read makes a configuration of the files.
func read(files config.TLS) (*tls.Config, error) {
	certPEM, err := watch.ReadChecked(files.CertFile, maxPEM, filemode.CheckFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	keyPEM, err := watch.ReadChecked(files.KeyFile, maxPEM, filemode.CheckFile)
	if err != nil {
		return nil, fmt.Errorf("load key: %w", err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load certificate %q with key %q: %w", files.CertFile, files.KeyFile, err)
	}
	t := &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
		SessionTicketsDisabled: true, // A resumed session would keep a client in whose authority was taken away.
	}
	if files.ClientCAFile == "" {
		return t, nil
	}
	pem, err := watch.ReadChecked(files.ClientCAFile, maxPEM, filemode.CheckFile)
	if err != nil {
		return nil, fmt.Errorf("read client CA: %w", err)
	}
	t.ClientCAs = x509.NewCertPool()
	if !t.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read client CA %q: no certificate in it", files.ClientCAFile)
	}
	t.ClientAuth = tls.RequireAndVerifyClientCert
	return t, nil
}
