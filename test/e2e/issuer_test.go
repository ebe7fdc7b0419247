package e2e

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// issuer signs tokens: good ones, and such as nobody should take.
type issuer struct {
	t   *testing.T
	key *rsa.PrivateKey
}

const (
	issuerURL = "https://issuer.e2e.example"
	keyID     = "e2e-1"
)

// newIssuer writes its key set to jwks.json in dir.
func newIssuer(t *testing.T, dir string) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(map[string]any{"keys": []any{map[string]any{
		"kty": "RSA", "kid": keyID, "alg": "RS256", "use": "sig",
		"n": encode64(key.N.Bytes()), "e": encode64(big.NewInt(int64(key.E)).Bytes()),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "jwks.json"), set, 0o600); err != nil {
		t.Fatal(err)
	}
	return &issuer{t, key}
}

func encode64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// claims are those of a good token, with changes; a nil takes the claim away.
func claims(changes map[string]any) map[string]any {
	now := time.Now().Unix()
	c := map[string]any{"iss": issuerURL, "sub": "alice", "aud": "api", "scope": "accounts.read", "iat": now, "exp": now + 600}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// token signs a token with RS256.
func (i *issuer) token(changes map[string]any) string {
	return i.sign(map[string]any{"alg": "RS256", "typ": "JWT", "kid": keyID}, claims(changes))
}

// sign signs with RSA whatever the header says.
func (i *issuer) sign(header, payload any) string {
	i.t.Helper()
	return i.signText(i.json(header), i.json(payload))
}

func (i *issuer) json(v any) string {
	i.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		i.t.Fatal(err)
	}
	return string(b)
}

func (i *issuer) signText(header, payload string) string {
	i.t.Helper()
	input := encode64([]byte(header)) + "." + encode64([]byte(payload))
	digest := sha256.Sum256([]byte(input))
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, digest[:])
	if err != nil {
		i.t.Fatal(err)
	}
	return input + "." + encode64(signature)
}

// writeKeys writes an API key file with the digests of keys named key-NAME.
func writeKeys(t *testing.T, dir string) {
	t.Helper()
	digest := func(key string) string {
		sum := sha256.Sum256([]byte(key))
		return fmt.Sprintf("%x", sum)
	}
	text := fmt.Sprintf(`keys:
  - {id: alice, sha256: "%s", scopes: [orders.read]}
  - {id: bob, sha256: "%s"}
  - {id: carol, sha256: "%s", scopes: [orders.read]}
  - {id: late, sha256: "%s", scopes: [orders.read], expires: 2020-01-01T00:00:00Z}
`, digest(keyAlice), digest(keyBob), digest(keyCarol), digest(keyLate))
	if err := os.WriteFile(filepath.Join(dir, "keys.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The keys of writeKeys. Long, so that none is in a log by chance.
const (
	keyAlice = "key-of-alice-5d41402abc4b2a76"
	keyBob   = "key-of-bob-7d793037a0760186574b"
	keyCarol = "key-of-carol-9b74c9897bac770ffc"
	keyLate  = "key-of-late-c4ca4238a0b923820dcc"
	keyWrong = "key-of-nobody-e4da3b7fbbce2345d"
)
