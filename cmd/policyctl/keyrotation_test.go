package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestKeysNewForAClientWithAKey: the new key has what the client's last key has, and the old one is named with its end.
func TestKeysNewForAClientWithAKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.yaml")
	first := succeed(t, "keys", "new", "--id", "alice", "--scope", "orders.read", "--group", "dev", "--group", `o"ps`, "--metadata", "plan=gold", "--metadata", "owner=Zoë=x")
	entry := first[strings.Index(first, "  - {"):]
	if want := `scopes: ["orders.read"], groups: ["dev", "o\"ps"], metadata: {"plan": "gold", "owner": "Zoë=x"}}`; !strings.Contains(entry, want) {
		t.Errorf("%s, want %s", entry, want)
	}
	// Another key: the random bytes of the tests are always the same.
	old, bob := sha256.Sum256([]byte("old")), sha256.Sum256([]byte("bob"))
	pe := sha256.Sum256([]byte("pe_" + strings.Repeat("A", 43)))
	entry = strings.Replace(entry, hex.EncodeToString(pe[:]), hex.EncodeToString(old[:]), 1)
	content := "keys:\n" + entry + `  - {id: bob, sha256: "` + hex.EncodeToString(bob[:]) + `", expires: 2026-10-01T00:00:00Z}` + "\n"
	writeFile(t, file, content)

	got := succeed(t, "keys", "new", "--id", "alice", "--file", file, "--not-before", "1h", "--expires", "2027-12-31T00:00:00Z")
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if len(lines) != 5 {
		t.Fatalf("%d lines: %s", len(lines), got)
	}
	for _, want := range []string{
		`scopes: ["orders.read"], groups: ["dev", "o\"ps"], metadata: {"owner": "Zoë=x", "plan": "gold"}`,
		`not_before: 2026-11-01T13:00:00Z, expires: 2027-12-31T00:00:00Z}`,
	} {
		if !strings.Contains(lines[3], want) {
			t.Errorf("%s, want %s", lines[3], want)
		}
	}
	if want := "# The key on line 2 of " + file + " has no end. Give it one by which the client has the new key, such as: expires: 2026-11-02T12:00:00Z"; lines[4] != want {
		t.Errorf("%s, want %s", lines[4], want)
	}
	mustLoad(t, strings.TrimPrefix(content, "keys:\n")+lines[3]+"\n")
	if after, err := os.ReadFile(file); err != nil || string(after) != content {
		t.Errorf("the file was changed: %s, %v", after, err)
	}

	if got := succeed(t, "keys", "new", "--id", "alice", "--file", file, "--scope", "x", "--metadata", "a=b"); !strings.Contains(got, `scopes: ["x"], groups: ["dev", "o\"ps"], metadata: {"a": "b"}}`) {
		t.Errorf("flags do not win: %s", got)
	}
	if got := succeed(t, "keys", "new", "--id", "bob", "--file", file); !strings.Contains(got, "# The key on line 3 of "+file+" ended 2026-10-01T00:00:00Z.") {
		t.Error(got)
	}
	if got := succeed(t, "keys", "new", "--id", "carol", "--file", file); strings.Contains(got, "line ") || strings.Contains(got, "groups") {
		t.Errorf("carol has what others have: %s", got)
	}
	if r := run(t, "bob\n", "keys", "digest", "--id", "carol", "--file", file); r.status != exitUsage || !strings.Contains(r.stderr, `the key is on line 3 of `+file+` already, as that of "bob"`) || r.stdout != "" {
		t.Errorf("%+v", r)
	}
}

func TestKeysRefuseWhatWorkersRefuse(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--group", ""}, "not a group"},
		{[]string{"--metadata", "plan"}, `--metadata "plan" is not an entry; expected NAME=VALUE`},
		{[]string{"--metadata", "sub=admin"}, `metadata "sub" has another meaning`},
		{[]string{"--metadata", "a=b", "--metadata", "a=c"}, `"a" is repeated`},
		{[]string{"--metadata", "a=" + strings.Repeat("x", 1025)}, "not a value"},
		{[]string{"--not-before", "48h", "--expires", "24h"}, "must be before expires"},
		{[]string{"--not-before", "-1h"}, "has passed"},
		{[]string{"--file", filepath.Join(t.TempDir(), "none")}, "no such file"},
	} {
		r := run(t, "", append([]string{"keys", "new", "--id", "a"}, tc.args...)...)
		if r.status == exitOK || !strings.Contains(r.stderr, tc.want) || r.stdout != "" {
			t.Errorf("%q: %+v, want %q", tc.args, r, tc.want)
		}
	}
}
