package stage

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	issuerName = "https://issuer.faults.example"
	keyID      = "faults-1"
)

// Issuer signs tokens and serves its key set, as long as nothing else is wanted.
type Issuer struct {
	URL string

	key      ed25519.PrivateKey
	set      []byte
	answer   atomic.Pointer[http.HandlerFunc] // nil: the key set
	listener net.Listener
	server   *http.Server
}

func startIssuer() (*Issuer, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the issuer: %w", err)
	}
	i := &Issuer{URL: "http://" + listener.Addr().String() + "/jwks.json", key: private, listener: listener}
	i.set, err = json.Marshal(map[string]any{"keys": []any{map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": keyID, "alg": "EdDSA", "use": "sig", "x": encode64(public)}}})
	if err != nil {
		return nil, err
	}
	i.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer := i.answer.Load(); answer != nil {
			(*answer)(w, r)
			return
		}
		w.Header().Set("content-type", "application/json")
		_, _ = w.Write(i.set)
	})}
	go func() { _ = i.server.Serve(listener) }() // It ends with the stage.
	return i, nil
}

// Answer answers in place of the key set; nil ends that.
func (i *Issuer) Answer(h http.HandlerFunc) {
	if h == nil {
		i.answer.Store(nil)
		return
	}
	i.answer.Store(&h)
}

func (i *Issuer) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if i.server.Shutdown(ctx) != nil {
		_ = i.server.Close()
	}
}

// Token is a good token, unless its key id, its end or its signature are changed. It has a number of its own, so that no worker remembers it from another.
func (i *Issuer) Token(kid string, number int, expires time.Time) string {
	header := fmt.Sprintf(`{"alg":"EdDSA","typ":"JWT","kid":%q}`, kid)
	claims := fmt.Sprintf(`{"iss":%q,"sub":"alice-%d","aud":"faults","exp":%d}`, issuerName, number, expires.Unix())
	input := encode64([]byte(header)) + "." + encode64([]byte(claims))
	return input + "." + encode64(ed25519.Sign(i.key, []byte(input)))
}

func encode64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
