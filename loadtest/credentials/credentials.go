// Package credentials makes the API keys and tokens of a load, and keeps them from run to run, since signing takes long.
package credentials

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Issuer is the tokens' issuer.
const Issuer = "https://issuer.loadtest.example"

const (
	keyID = "loadtest"
	// life is a token's life. Tokens that have less than rest left are made anew.
	life = 30 * 24 * time.Hour
	rest = 24 * time.Hour
)

// Set is the credentials of a load: client i has the key Keys[i], and the tokens i, i+Clients, i+2·Clients … of Tokens, all of them different.
type Set struct {
	Expires time.Time `json:"expires"`
	Private []byte    `json:"private"` // the issuer's key, PKCS #8
	Keys    []string  `json:"keys"`
	Tokens  []string  `json:"tokens"`

	private *rsa.PrivateKey
}

// Load takes the credentials of the folder, and makes what is missing: keys of that many clients, and at least that many tokens. progress is told how many
// tokens are signed; it may be nil.
func Load(dir string, clients, tokens int, now time.Time, progress func(signed, of int)) (*Set, error) {
	if clients < 1 {
		return nil, fmt.Errorf("make credentials of %d clients: legal is at least 1", clients)
	}
	file := filepath.Join(dir, "credentials.json")
	s, ok := read(file)
	if !ok || len(s.Keys) != clients || s.Expires.Sub(now) < rest {
		var err error
		if s, err = newSet(clients, now); err != nil {
			return nil, err
		}
	}
	if tokens = max(tokens, clients); len(s.Tokens) >= tokens {
		return s, nil
	}
	if err := s.sign(tokens, progress); err != nil {
		return nil, err
	}
	return s, s.write(file)
}

// read takes what is there; what can't be read is made anew.
func read(file string) (*Set, bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, false
	}
	s := new(Set)
	if json.Unmarshal(text, s) != nil {
		return nil, false
	}
	key, err := x509.ParsePKCS8PrivateKey(s.Private)
	if err != nil {
		return nil, false
	}
	var isRSA bool
	s.private, isRSA = key.(*rsa.PrivateKey)
	return s, isRSA
}

func (s *Set) write(file string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode credentials: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("keep credentials: %w", err)
	}
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return fmt.Errorf("keep credentials: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("keep credentials: %w", err)
	}
	return nil
}

func newSet(clients int, now time.Time) (*Set, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make the issuer's key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("encode the issuer's key: %w", err)
	}
	s := &Set{Expires: now.Add(life).Truncate(time.Second), Private: der, Keys: make([]string, clients), private: private}
	for i := range s.Keys {
		s.Keys[i] = rand.Text()
	}
	return s, nil
}

// Identity is the name of a client: the id of its key, and the subject of its tokens.
func Identity(client int) string { return fmt.Sprintf("client-%05d", client) }

// sign makes tokens up to that many, on all cores.
func (s *Set) sign(tokens int, progress func(signed, of int)) error {
	first := len(s.Tokens)
	s.Tokens = append(s.Tokens, make([]string, tokens-first)...)
	var next, signed atomic.Int64
	next.Store(int64(first))
	errs := make([]error, runtime.GOMAXPROCS(0))
	var all sync.WaitGroup
	for w := range errs {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= tokens {
					return
				}
				if s.Tokens[i], errs[w] = s.token(i); errs[w] != nil {
					return
				}
				if n := signed.Add(1); progress != nil && (n%500 == 0 || int(n) == tokens-first) {
					progress(int(n), tokens-first)
				}
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// token makes a token in the compact form of RFC 7515 section 3.1.
func (s *Set) token(i int) (string, error) {
	claims := map[string]any{"iss": Issuer, "sub": Identity(i % len(s.Keys)), "aud": "api", "scope": "orders.read", "jti": strconv.Itoa(i), "exp": s.Expires.Unix()}
	return sign(s.private, claims)
}

func sign(private *rsa.PrivateKey, claims map[string]any) (string, error) {
	header, err := json.Marshal(map[string]string{"alg": "RS256", "kid": keyID, "typ": "JWT"})
	if err != nil {
		return "", fmt.Errorf("encode a token: %w", err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode a token: %w", err)
	}
	text := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload)
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(nil, private, crypto.SHA256, digest[:])
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// Forged is a token of the first client that another key has signed under the issuer's name.
func (s *Set) Forged() (string, error) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", fmt.Errorf("make a key: %w", err)
	}
	return sign(other, map[string]any{"iss": Issuer, "sub": Identity(0), "exp": s.Expires.Unix()})
}

// The files that Publish writes.
const (
	KeyFile    = "api-keys.yaml" // of a worker
	KeySetFile = "jwks.json"     // the issuer's (RFC 7517)
)

// Publish writes what verifies the credentials into a folder: digests and a public key, which everyone may read.
func (s *Set) Publish(dir string) error {
	keys, err := s.keyFile()
	if err != nil {
		return fmt.Errorf("encode the API keys: %w", err)
	}
	set, err := s.keySet()
	if err != nil {
		return fmt.Errorf("encode the key set: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("publish the credentials: %w", err)
	}
	for name, text := range map[string][]byte{KeyFile: keys, KeySetFile: set} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return fmt.Errorf("publish the credentials: %w", err)
		}
	}
	return nil
}

func (s *Set) keyFile() ([]byte, error) {
	type key struct {
		ID     string `json:"id"`
		SHA256 string `json:"sha256"`
	}
	keys := make([]key, len(s.Keys))
	for i, k := range s.Keys {
		digest := sha256.Sum256([]byte(k))
		keys[i] = key{Identity(i), hex.EncodeToString(digest[:])}
	}
	return json.MarshalIndent(map[string]any{"keys": keys}, "", " ") // JSON is YAML.
}

func (s *Set) keySet() ([]byte, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	return json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "RSA", "kid": keyID, "alg": "RS256", "use": "sig",
		"n": b64(s.private.N.Bytes()), "e": b64(big.NewInt(int64(s.private.E)).Bytes()),
	}}})
}
