package worker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/config"
)

func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pos := config.Pos{File: "w.yaml", Line: 7, Path: "policy_worker.x"}
	none := filepath.Join(dir, "none")
	expired := "  - {id: a, sha256: " + strings.Repeat("1", 64) + ", expires: 2026-11-01T00:00:00Z}\n"
	writable := write("writable.yaml", "keys: []\n")
	if err := os.Chmod(writable, 0o666); err != nil {
		t.Fatal(err)
	}
	cfg := &config.Worker{
		KeyStores: []config.KeyStore{
			{Name: "good", File: write("good.yaml", "keys: []\n")},
			{Name: "absent", File: none, Pos: pos},
			{Name: "expired", File: write("expired.yaml", "keys:\n"+expired), Pos: pos},
			{Name: "some expired", File: write("some.yaml", "keys:\n"+expired+"  - {id: a, sha256: "+strings.Repeat("2", 64)+"}\n"), Pos: pos},
			{Name: "early", File: write("early.yaml", "keys:\n  - {id: a, sha256: "+strings.Repeat("1", 64)+", not_before: 2026-11-01T00:00:01Z}\n"), Pos: pos},
			{Name: "anybody's", File: writable, Pos: pos},
			{Name: "bad", File: write("bad.yaml", "keys:\n  - {id: a, sha256: short}\n"), Pos: pos},
		},
		JWTIssuers: []config.JWTIssuer{
			{Name: "remote", Issuer: "a", JWKSURI: "https://issuer.invalid/jwks.json"},
			{Name: "good", Issuer: "a", JWKSFile: write("good.json", `{"keys":[]}`)},
			{Name: "absent", Issuer: "a", JWKSFile: none, Pos: pos},
			{Name: "bad", Issuer: "a", JWKSFile: write("bad.json", `[]`), Pos: pos},
		},
	}
	var got []string
	for _, err := range CheckFiles(cfg, time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)) {
		got = append(got, err.Error())
	}
	want := []string{
		"w.yaml:7: policy_worker.x.file: the file can't be read: ",
		`w.yaml:7: policy_worker.x.file: "` + filepath.Join(dir, "expired.yaml") + `" has no key that is valid now, of 1 expired and 0 not yet valid; add one with policyctl keys new`,
		`w.yaml:7: policy_worker.x.file: "` + filepath.Join(dir, "early.yaml") + `" has no key that is valid now, of 0 expired and 1 not yet valid; `,
		`w.yaml:7: policy_worker.x.file: the file can't be read: read file "` + writable + `": must not be writable by other users`,
		filepath.Join(dir, "bad.yaml") + ":2: keys[0].sha256: ",
		"w.yaml:7: policy_worker.x.jwks_file: the file can't be read: ",
		`w.yaml:7: policy_worker.x.jwks_file: "` + filepath.Join(dir, "bad.json") + `": `,
	}
	if len(got) != len(want) {
		t.Fatalf("got %q", got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("got %q, want it to begin with %q", got[i], want[i])
		}
	}
}
