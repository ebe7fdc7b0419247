package main

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/worker"
)

// The worker must take what is printed.
func mustLoad(t *testing.T, entries string) {
	t.Helper()
	file := writeFile(t, filepath.Join(t.TempDir(), "keys.yaml"), "keys:\n"+entries)
	cfg := &config.Worker{KeyStores: []config.KeyStore{{Name: "k", File: file}}}
	for _, err := range worker.CheckFiles(cfg, testNow) {
		t.Errorf("the worker refuses the entry: %v", err)
	}
}

func TestKeysNew(t *testing.T) {
	got := succeed(t, "keys", "new", "--id", "alice", "--scope", "orders.read", "--scope", "a:b", "--expires", "2027-12-31T01:00:00+01:00")
	key := "pe_" + strings.Repeat("A", 43)
	digest := sha256.Sum256([]byte(key))
	entry := `  - {id: "alice", sha256: "` + hex.EncodeToString(digest[:]) + `", scopes: ["orders.read", "a:b"], expires: 2027-12-31T00:00:00Z}` + "\n"
	if want := "# The key, shown only now; give it to the client:\n" + key + "\n# The entry for the key file:\n" + entry; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	mustLoad(t, entry)
}

func TestKeysDigest(t *testing.T) {
	for name, stdin := range map[string]string{"line": "demo-key-alice\n", "no line end": "demo-key-alice", "CR LF": "demo-key-alice\r\nnext\n"} {
		t.Run(name, func(t *testing.T) {
			r := run(t, stdin, "keys", "digest", "--id", `a"b\c`, "--expires", "24h")
			want := `  - {id: "a\"b\\c", sha256: "f80024220afd493b4d9592af870de7afe98061992d28fdb75480c9b717783fa2", expires: 2026-11-02T12:00:00Z}` + "\n"
			if r.status != exitOK || r.stdout != want {
				t.Errorf("got %+v, want %s", r, want)
			}
			mustLoad(t, r.stdout)
		})
	}
}

func TestKeysRefuse(t *testing.T) {
	tests := []struct {
		name, stdin string
		args        []string
		want        string
	}{
		{"no id", "", []string{"new"}, "--id is missing; it is required"},
		{"id with a space", "", []string{"new", "--id", "a b"}, `--id "a b" is not an id`},
		{"scope with a space", "", []string{"new", "--id", "a", "--scope", "x y"}, `--scope "x y" is not a scope`},
		{"empty scope", "", []string{"new", "--id", "a", "--scope", ""}, `--scope "" is not a scope`},
		{"not a time", "", []string{"new", "--id", "a", "--expires", "tomorrow"}, `--expires "tomorrow" is not a time`},
		{"past", "", []string{"new", "--id", "a", "--expires", "2026-11-01T12:00:00Z"}, "has passed"},
		{"no key", "", []string{"digest", "--id", "a"}, "the standard input is not a key"},
		{"secret with a space", "secret key\n", []string{"digest", "--id", "a"}, "the standard input is not a key"},
		{"too long", strings.Repeat("s", maxKey+1), []string{"digest", "--id", "a"}, "the standard input is not a key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := run(t, tt.stdin, append([]string{"keys"}, tt.args...)...)
			if r.status != exitUsage || !strings.Contains(r.stderr, tt.want) || r.stdout != "" {
				t.Errorf("got %+v, want %q", r, tt.want)
			}
			if strings.Contains(r.stderr, "secret") {
				t.Errorf("the key is shown: %s", r.stderr)
			}
		})
	}
}
