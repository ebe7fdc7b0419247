package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/worker"
)

// newIssuer makes an issuer and returns its key and key set.
func newIssuer(t *testing.T, alg string) (key, set string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "demo")
	succeed(t, "token", "init", "--dir", dir, "--alg", alg)
	return filepath.Join(dir, issuerKeyFile), filepath.Join(dir, issuerSetFile)
}

// verify checks the token with the key set, by its kid, and returns its claims.
func verify(t *testing.T, token, set string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(set)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := jwk.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := jws.Verify([]byte(strings.TrimSuffix(token, "\n")), jws.WithKeySet(keys))
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func TestTokenOfEachAlgorithm(t *testing.T) {
	for _, alg := range strings.Split(algorithms, ", ") {
		t.Run(alg, func(t *testing.T) {
			key, set := newIssuer(t, alg)
			token := succeed(t, "token", "--sub", "alice", "--scope", "accounts.read", "--scope", "x", "--key", key, "--alg", alg)
			claims := verify(t, token, set)
			want := map[string]any{
				"iss": "https://issuer.demo.example", "sub": "alice", "scope": "accounts.read x",
				"iat": float64(testNow.Unix()), "exp": float64(testNow.Add(time.Hour).Unix()),
			}
			got, _ := json.Marshal(claims)
			if wanted, _ := json.Marshal(want); !bytes.Equal(got, wanted) {
				t.Errorf("got %s, want %s", got, wanted)
			}
			cfg := &config.Worker{JWTIssuers: []config.JWTIssuer{{Name: "demo", Issuer: "a", JWKSFile: set}}}
			for _, err := range worker.CheckFiles(cfg, testNow) {
				t.Errorf("the worker refuses the key set: %v", err)
			}
		})
	}
}

func TestTokenClaims(t *testing.T) {
	key, set := newIssuer(t, "EdDSA")
	token := succeed(t, "token", "--sub", "a", "--key", key, "--issuer", "me", "--audience", "x", "--audience", "y", "--ttl", "-1h", "--kid", "other",
		"--claim", "n=5", "--claim", "admin=true", "--claim", "name=bob=1", "--claim", `o={"a":[1]}`)
	message, err := jws.Parse([]byte(token[:len(token)-1]))
	if err != nil {
		t.Fatal(err)
	}
	if kid, _ := message.Signatures()[0].ProtectedHeaders().KeyID(); kid != "other" {
		t.Errorf("kid %q", kid)
	}
	claims := string(message.Payload())
	want := `{"admin":true,"aud":["x","y"],"exp":1793530800,"iat":1793530800,"iss":"me","n":5,"name":"bob=1","o":{"a":[1]},"sub":"a"}`
	if claims != want {
		t.Errorf("got %s, want %s", claims, want)
	}
	if claims := verify(t, succeed(t, "token", "--sub", "a", "--key", key, "--audience", "x"), set); claims["aud"] != "x" {
		t.Errorf("aud %v", claims["aud"])
	}
}

func TestTokenInitKeepsTheKey(t *testing.T) {
	key, set := newIssuer(t, "RS256")
	for path, want := range map[string]fs.FileMode{key: 0o600, set: 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %v", path, info.Mode(), err, want)
		}
	}
	before, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	token := succeed(t, "token", "--sub", "a", "--key", key)
	if err := os.Remove(set); err != nil {
		t.Fatal(err)
	}
	if out := succeed(t, "token", "init", "--dir", filepath.Dir(key), "--alg", "ES256"); !strings.HasPrefix(out, "kept ") {
		t.Errorf("got %q", out)
	}
	after, err := os.ReadFile(key)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key was replaced (%v)", err)
	}
	verify(t, token, set)
}

func TestTokenKeyOfTheEnvironment(t *testing.T) {
	key, set := newIssuer(t, "ES256")
	var stdout, stderr bytes.Buffer
	p := &program{stdout: &stdout, stderr: &stderr, now: func() time.Time { return testNow }, getenv: func(name string) string {
		return map[string]string{"POLICYCTL_ISSUER_KEY": key}[name]
	}}
	if status := p.run([]string{"token", "--sub", "a"}); status != exitOK {
		t.Fatal(stderr.String())
	}
	verify(t, stdout.String(), set)
}

func TestTokenRefuses(t *testing.T) {
	key, set := newIssuer(t, "ES256")
	dir := t.TempDir()
	secret := writeFile(t, filepath.Join(dir, "secret"), "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
	certificate := writeFile(t, filepath.Join(dir, "certificate"), "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n")
	tests := []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"no subject", []string{"--key", key}, exitUsage, "--sub is missing"},
		{"no key", []string{"--sub", "a", "--key", dir + "/none/issuer.key"}, exitFailed, "make one with: policyctl token init --dir " + dir + "/none"},
		{"no key at the default place", []string{"--sub", "a"}, exitFailed, "make one with: policyctl token init --dir build/demo"},
		{"not PEM", []string{"--sub", "a", "--key", set}, exitFailed, "it is not PEM"},
		{"broken key", []string{"--sub", "a", "--key", secret}, exitFailed, "it can't be decoded"},
		{"a certificate", []string{"--sub", "a", "--key", certificate}, exitFailed, `it is a "CERTIFICATE"; legal is a private key`},
		{"other algorithm", []string{"--sub", "a", "--key", key, "--alg", "RS256"}, exitUsage, "legal is ES256"},
		{"algorithm none", []string{"--sub", "a", "--key", key, "--alg", "none"}, exitUsage, "legal is ES256"},
		{"claim without a value", []string{"--sub", "a", "--key", key, "--claim", "x"}, exitUsage, "legal is NAME=VALUE"},
		{"claim with a flag", []string{"--sub", "a", "--key", key, "--claim", "exp=1"}, exitUsage, "has a flag of its own"},
		{"unknown algorithm of a new key", []string{"init", "--dir", dir, "--alg", "HS256"}, exitUsage, `unknown --alg "HS256"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := run(t, "", append([]string{"token"}, tt.args...)...)
			if r.status != tt.status || !strings.Contains(r.stderr, tt.want) || r.stdout != "" {
				t.Errorf("got %+v, want %d and %q", r, tt.status, tt.want)
			}
			if strings.Contains(r.stderr, "c2VjcmV0") {
				t.Errorf("the key is shown: %s", r.stderr)
			}
		})
	}
}
