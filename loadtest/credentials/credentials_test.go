package credentials

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func load(t *testing.T, dir string, clients, tokens int, now time.Time) *Set {
	t.Helper()
	s, err := Load(dir, clients, tokens, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func decode(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestTokens: each verifies with the key set, is another than all others, and names its client.
func TestTokens(t *testing.T) {
	now := time.Now()
	s := load(t, t.TempDir(), 3, 8, now)
	text, err := s.keySet()
	if err != nil {
		t.Fatal(err)
	}
	var set struct {
		Keys []struct{ N, E, Kid, Alg string }
	}
	if err := json.Unmarshal(text, &set); err != nil || len(set.Keys) != 1 || set.Keys[0].Alg != "RS256" {
		t.Fatalf("%v: %s", err, text)
	}
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(decode(t, set.Keys[0].N)), E: int(new(big.Int).SetBytes(decode(t, set.Keys[0].E)).Int64())}
	verify := func(token string) error {
		i := strings.LastIndexByte(token, '.')
		digest := sha256.Sum256([]byte(token[:i]))
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], decode(t, token[i+1:]))
	}
	seen := map[string]bool{}
	for i, token := range s.Tokens {
		if seen[token] = true; verify(token) != nil {
			t.Errorf("token %d does not verify", i)
		}
		var claims struct {
			Iss, Sub, Jti string
			Exp           int64
		}
		if err := json.Unmarshal(decode(t, strings.Split(token, ".")[1]), &claims); err != nil {
			t.Fatal(err)
		}
		if claims.Iss != Issuer || claims.Sub != Identity(i%3) || time.Unix(claims.Exp, 0).Before(now.Add(rest)) {
			t.Errorf("token %d says %+v", i, claims)
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d different tokens, want 8", len(seen))
	}
	forged, err := s.Forged()
	if err != nil || verify(forged) == nil {
		t.Errorf("the forged token verifies, or %v", err)
	}
}

func TestKeyFile(t *testing.T) {
	s := load(t, t.TempDir(), 3, 0, time.Now())
	text, err := s.keyFile()
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Keys []struct{ ID, SHA256 string }
	}
	if err := json.Unmarshal(text, &file); err != nil || len(file.Keys) != 3 {
		t.Fatalf("%v: %s", err, text)
	}
	for i, key := range s.Keys {
		digest := sha256.Sum256([]byte(key))
		if file.Keys[i].ID != Identity(i) || file.Keys[i].SHA256 != hex.EncodeToString(digest[:]) || strings.Contains(string(text), key) {
			t.Errorf("key %d is %+v", i, file.Keys[i])
		}
	}
}

// TestKept: what is there is taken, as long as it fits and lives.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	first := load(t, dir, 2, 3, now)
	if info, err := os.Stat(filepath.Join(dir, "credentials.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info.Mode(), err)
	}
	if again := load(t, dir, 2, 2, now); !slices.Equal(again.Tokens, first.Tokens) || !slices.Equal(again.Keys, first.Keys) {
		t.Error("what fits was made anew")
	}
	if more := load(t, dir, 2, 5, now); !slices.Equal(more.Tokens[:3], first.Tokens) || len(more.Tokens) != 5 || more.Tokens[4] == "" {
		t.Error("more tokens: the first were made anew, or are missing")
	}
	if later := load(t, dir, 2, 3, now.Add(life-rest/2)); slices.Equal(later.Tokens, first.Tokens) {
		t.Error("tokens that are about to expire were taken")
	}
	if others := load(t, dir, 4, 4, now); len(others.Keys) != 4 || len(others.Tokens) != 4 {
		t.Errorf("other clients: %d keys, %d tokens", len(others.Keys), len(others.Tokens))
	}
	for name, content := range map[string]string{"nothing": "", "no JSON": "{", "no key": `{"keys":["a","b"],"tokens":["c","d"],"expires":"2999-01-01T00:00:00Z"}`} {
		if err := os.WriteFile(filepath.Join(dir, "credentials.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if s := load(t, dir, 2, 2, now); len(s.Tokens) != 2 || strings.Count(s.Tokens[0], ".") != 2 {
			t.Errorf("a file with %s: tokens %q", name, s.Tokens)
		}
	}
	if _, err := Load(dir, 0, 1, now, nil); err == nil {
		t.Error("no clients were taken")
	}
}
