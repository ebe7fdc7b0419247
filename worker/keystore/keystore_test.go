package keystore

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/policy-engine/policy-engine/policies"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixedClock time.Time

func (c fixedClock) Now() time.Time { return time.Time(c) }

var now = fixedClock(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func entry(id, key, more string) string {
	return fmt.Sprintf("  - {id: %s, sha256: \"%x\"%s}\n", id, sha256.Sum256([]byte(key)), more)
}

func TestParse(t *testing.T) {
	keys, err := Parse("f", []byte("keys:\n"+entry("alice", "a", ", scopes: [orders.read, orders.write], expires: 2027-12-31T00:00:00Z")+entry("bob", "b", "")))
	if err != nil {
		t.Fatal(err)
	}
	alice, bob := keys[sha256.Sum256([]byte("a"))], keys[sha256.Sum256([]byte("b"))]
	if alice == nil || alice.ID != "alice" || fmt.Sprint(alice.Scopes) != "[orders.read orders.write]" || !alice.Expires.Equal(time.Date(2027, 12, 31, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("alice is %+v", alice)
	}
	if bob == nil || bob.ID != "bob" || bob.Scopes != nil || !bob.Expires.IsZero() {
		t.Errorf("bob is %+v", bob)
	}
	if len(keys) != 2 {
		t.Errorf("%d keys, want 2", len(keys))
	}
}

// TestSeveralKeysOfOneClient: a client that changes its key has two for a while, each with its own lifetime, groups and metadata.
func TestSeveralKeysOfOneClient(t *testing.T) {
	keys, err := Parse("f", []byte("keys:\n"+
		entry("alice", "old", ", expires: 2026-12-31T00:00:00Z")+
		entry("alice", "new", ", not_before: 2026-12-01T00:00:00Z, groups: [dev, ops], metadata: {plan: gold, \"a b\": \"Zoë\"}")))
	if err != nil {
		t.Fatal(err)
	}
	old, next := keys[sha256.Sum256([]byte("old"))], keys[sha256.Sum256([]byte("new"))]
	if len(keys) != 2 || old == nil || next == nil || old.ID != "alice" || next.ID != "alice" {
		t.Fatalf("%v", keys)
	}
	for _, step := range []struct {
		month time.Month
		want  string
	}{{time.November, "true false false"}, {time.December, "true false true"}, {time.December + 1, "true true true"}} {
		at := time.Date(2026, step.month, 1, 0, 0, 0, 0, time.UTC)
		if got := fmt.Sprint(old.Begun(at), old.Expired(at), next.Begun(at)); got != step.want || next.Expired(at) {
			t.Errorf("%v: %s, want %s", at, got, step.want)
		}
	}
	if old.Claims != nil || next.Claims.JSON() != `{"groups":["dev","ops"],"a b":"Zo\u00eb","plan":"gold"}` {
		t.Errorf("claims %v and %s", old.Claims, next.Claims.JSON())
	}
}

// TestExampleOfTheREADME: the key file that the README of apiKeyAuth shows is one.
func TestExampleOfTheREADME(t *testing.T) {
	text, err := os.ReadFile("../../policies/apikeyauth/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "### Key files\n\n```yaml\n")
	file, _, _ := strings.Cut(after, "```")
	keys, err := Parse("README", []byte(file))
	if err != nil || len(keys) != 2 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	old, next := keys[sha256.Sum256([]byte("key-old"))], keys[sha256.Sum256([]byte("key-new"))]
	if old == nil || next == nil || old.ID != "alice" || next.ID != "alice" || old.Claims.JSON() != `{"groups":["developers"],"plan":"gold"}` {
		t.Errorf("%+v and %+v", old, next)
	}
}

func TestParseTakesDigestsWithoutQuotes(t *testing.T) {
	// YAML takes them for a number.
	for _, digits := range []string{strings.Repeat("1", 64), strings.Repeat("1", 60) + "e234", strings.Repeat("0", 64)} {
		if keys, err := Parse("f", []byte("keys: [{id: a, sha256: "+digits+"}]")); err != nil || len(keys) != 1 {
			t.Errorf("%s: %v", digits, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	secret := "this-is-a-raw-key-and-not-a-digest-it-has-64-characters-exactly-"
	good := strings.TrimSpace(entry("ok", "ok", ""))
	for name, tc := range map[string]struct{ content, want string }{
		"empty":                {"", "f:1: the file is empty"},
		"comment only":         {"# nothing\n", "f:1: the file is empty"},
		"no keys":              {"{}", "f:1: keys: missing; expected a list"},
		"null":                 {"null", "f:1: not a mapping; expected keys"},
		"null keys":            {"keys:", "f:1: keys: not a list"},
		"list":                 {"- a", "f:1: not a mapping"},
		"unknown top":          {"keys: []\nmore: 1\n", "f:2: more: unknown; expected keys"},
		"repeated top":         {"keys: []\nkeys: []\n", "f:2: keys: repeated"},
		"two documents":        {"keys: []\n---\nkeys: []\n", "f:2: a second YAML document"},
		"not YAML":             {"keys: []\n\t:", "f:2: not YAML: "},
		"entry no mapping":     {"keys:\n  - alice\n", "f:2: keys[0]: not a mapping; expected id, sha256, scopes, groups, metadata, not_before, expires"},
		"unknown member":       {"keys:\n" + entry("a", "a", ", scope: x"), "f:2: keys[0].scope: unknown; expected id, sha256, scopes, groups, metadata, not_before, expires"},
		"repeated member":      {"keys:\n" + entry("a", "a", ", id: b"), "f:2: keys[0].id: repeated"},
		"no id":                {fmt.Sprintf("keys:\n  - {sha256: %x}", sha256.Sum256(nil)), "f:2: keys[0].id: missing"},
		"empty id":             {"keys:\n" + entry(`""`, "a", ""), `f:2: keys[0].id: "" is not an id`},
		"id with a line break": {"keys:\n" + entry(`"a\r\nX-Admin: 1"`, "a", ""), "f:2: keys[0].id: "},
		"id with a space":      {"keys:\n" + entry(`"a b"`, "a", ""), "f:2: keys[0].id: "},
		"id beyond ASCII":      {"keys:\n" + entry("josé", "a", ""), "f:2: keys[0].id: "},
		"number as id":         {"keys:\n" + entry("007", "a", ""), "f:2: keys[0].id: not a string"},
		"null id":              {"keys:\n" + entry("null", "a", ""), "f:2: keys[0].id: not a string"},
		"long id":              {"keys:\n" + entry(strings.Repeat("a", 257), "a", ""), "f:2: keys[0].id: "},
		"no digest":            {"keys:\n  - {id: a}", "f:2: keys[0].sha256: missing"},
		"short digest":         {"keys:\n  - {id: a, sha256: abcd}", "f:2: keys[0].sha256: not a digest; expected the 64 hex digits"},
		"a key as digest":      {"keys:\n  - {id: a, sha256: " + secret + "}", "f:2: keys[0].sha256: not a digest"},
		"digest as list":       {"keys:\n  - {id: a, sha256: [a]}", "f:2: keys[0].sha256: not a digest"},
		"repeated digest":      {"keys:\n" + entry("a", "x", "") + entry("b", "x", ""), "f:3: keys[1].sha256: the same as in line 2"},
		"same key of one id":   {"keys:\n" + entry("a", "x", "") + entry("a", "x", ""), "f:3: keys[1].sha256: the same as in line 2"},
		"groups as string":     {"keys:\n" + entry("a", "a", ", groups: x"), "f:2: keys[0].groups: not a list"},
		"number as group":      {"keys:\n" + entry("a", "a", ", groups: [1]"), "f:2: keys[0].groups[0]: not a group"},
		"empty group":          {"keys:\n" + entry("a", "a", `, groups: [a, ""]`), "f:2: keys[0].groups[1]: not a group"},
		"group in two lines":   {"keys:\n" + entry("a", "a", `, groups: ["a\nb"]`), "f:2: keys[0].groups[0]: not a group"},
		"many groups":          {"keys:\n" + entry("a", "a", ", groups: ["+strings.Repeat("a, ", 65)+"]"), "f:2: keys[0]: must have at most 64 groups, got 65"},
		"metadata as list":     {"keys:\n" + entry("a", "a", ", metadata: [x]"), "f:2: keys[0].metadata: not a mapping"},
		"metadata null":        {"keys:\n" + entry("a", "a", ", metadata: "), "f:2: keys[0].metadata: not a mapping"},
		"metadata nested":      {"keys:\n" + entry("a", "a", ", metadata: {plan: {x: y}}"), "f:2: keys[0].metadata.plan: not a value"},
		"metadata number":      {"keys:\n" + entry("a", "a", ", metadata: {limit: 3}"), "f:2: keys[0].metadata.limit: not a value"},
		"metadata repeated":    {"keys:\n" + entry("a", "a", ", metadata: {a: b, a: c}"), `f:2: keys[0].metadata: "a" is repeated`},
		"metadata subject":     {"keys:\n" + entry("a", "a", ", metadata: {sub: admin}"), `f:2: keys[0]: metadata "sub" has another meaning`},
		"metadata groups":      {"keys:\n" + entry("a", "a", ", metadata: {groups: admin}"), `f:2: keys[0]: metadata "groups" has another meaning`},
		"metadata merge":       {"keys:\n" + entry("a", "a", ", metadata: {<<: {a: b}}"), "f:2: keys[0].metadata: not a name"},
		"large metadata":       {"keys:\n" + entry("a", "a", ", metadata: {a: "+strings.Repeat("x", 1025)+"}"), "f:2: keys[0].metadata.a: not a value"},
		"metadata in sum":      {"keys:\n" + entry("a", "a", ", groups: ["+strings.Repeat(strings.Repeat("x", 1000)+", ", 5)+"]"), "f:2: keys[0]: groups and metadata must have at most 4096 bytes"},
		"no lifetime":          {"keys:\n" + entry("a", "a", ", not_before: 2027-01-01T00:00:00Z, expires: 2027-01-01T00:00:00Z"), "f:2: keys[0].not_before: must be before expires"},
		"not_before as date":   {"keys:\n" + entry("a", "a", ", not_before: 2027-01-01"), "f:2: keys[0].not_before: not a time"},
		"scopes as string":     {"keys:\n" + entry("a", "a", ", scopes: x"), "f:2: keys[0].scopes: not a list"},
		"scope with a space":   {"keys:\n" + entry("a", "a", ", scopes: [ok, a b]"), "f:2: keys[0].scopes[1]: not a scope"},
		"empty scope":          {"keys:\n" + entry("a", "a", `, scopes: [""]`), "f:2: keys[0].scopes[0]: not a scope"},
		"number as scope":      {"keys:\n" + entry("a", "a", ", scopes: [1]"), "f:2: keys[0].scopes[0]: not a scope"},
		"expires without time": {"keys:\n" + entry("a", "a", ", expires: 2027-12-31"), "f:2: keys[0].expires: not a time; expected one as 2027-12-31T00:00:00Z"},
		"expires null":         {"keys:\n" + entry("a", "a", ", expires: null"), "f:2: keys[0].expires: not a time"},
		"expires never":        {"keys:\n" + entry("a", "a", ", expires: 0001-01-01T00:00:00Z"), "f:2: keys[0].expires: not a time"},
		"alias":                {"keys:\n  - &a " + strings.TrimPrefix(good, "- ") + "\n  - *a\n", "f:3: keys[1]: not a mapping"},
		"merge":                {"keys:\n  - &a " + strings.TrimPrefix(good, "- ") + "\n  - {<<: *a, id: b}\n", "f:3: keys[1].<<: unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			keys, err := Parse("f", []byte(tc.content))
			if err == nil {
				t.Fatalf("accepted: %v", keys)
			}
			if !strings.Contains("\n"+err.Error(), "\n"+tc.want) {
				t.Errorf("error %q, want a line that begins with %q", err, tc.want)
			}
			if strings.Contains(err.Error(), secret) {
				t.Error("the error shows the key")
			}
		})
	}
}

func TestParseReportsAllMistakes(t *testing.T) {
	_, err := Parse("f", []byte("keys:\n  - {id: a}\n  - {sha256: zz, more: 1}\n"))
	want := []string{
		"f:2: keys[0].sha256: missing", "f:3: keys[1].more: unknown", "f:3: keys[1].id: missing", "f:3: keys[1].sha256: not a digest",
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%v", len(lines), len(want), err)
	}
	for i := range want {
		if !strings.HasPrefix(lines[i], want[i]) {
			t.Errorf("line %d is %q, want %q…", i, lines[i], want[i])
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("keys:\n" + entry("alice", "a", ", scopes: [x], expires: 2027-12-31T00:00:00Z")))
	f.Add([]byte("keys: [&a {id: x}, *a]"))
	f.Add([]byte("keys:\n" + entry("alice", "a", ", groups: [x, \"\\u00e9\"], metadata: {a: b}, not_before: 2026-12-31T00:00:00Z")))
	f.Add([]byte("keys:\n- {? [a] : b}\n---\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		keys, err := Parse("f", content)
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if strings.TrimSpace(line) == "" {
					t.Errorf("an empty line in %q", err)
				}
			}
			return
		}
		for _, k := range keys {
			if k.ID == "" || !visible(k.ID) {
				t.Errorf("accepted the id %q", k.ID)
			}
			if k.Claims != nil && len(k.Claims.JSON()) > policies.MaxKeyClaims {
				t.Errorf("accepted %d bytes of claims", len(k.Claims.JSON()))
			}
		}
	})
}

func open(t *testing.T, content string) (*Store, string, *lockedBuffer) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	replace(t, path, content)
	logs := new(lockedBuffer)
	s, err := Open("partners", path, now, slog.New(slog.NewTextHandler(logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, path, logs
}

func replace(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".tmp", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
}

func (s *Store) id(key string) string {
	digest := sha256.Sum256([]byte(key))
	k, err := s.Lookup(&digest)
	switch {
	case err != nil:
		return err.Error()
	case k == nil:
		return ""
	}
	return k.ID
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func TestStoreFollowsTheFile(t *testing.T) {
	s, path, logs := open(t, "keys:\n"+entry("alice", "a", ""))
	if s.id("a") != "alice" || s.id("b") != "" || s.Len() != 1 {
		t.Fatalf("alice is %q, bob %q, %d keys", s.id("a"), s.id("b"), s.Len())
	}
	replace(t, path, "keys:\n"+entry("bob", "b", ", expires: 2020-01-01T00:00:00Z"))
	eventually(t, "bob is there and alice gone", func() bool { return s.id("b") == "bob" && s.id("a") == "" })
	if !strings.Contains(logs.String(), "expired=1") {
		t.Error("the log does not tell of the expired key")
	}

	replace(t, path, "keys:\n"+entry("carol", "c", ", more: 1")+"  - {id: dave}\n")
	eventually(t, "the mistakes are logged", func() bool { return strings.Contains(logs.String(), "level=ERROR") })
	if s.id("b") != "bob" || s.id("c") != "" {
		t.Errorf("after a bad file bob is %q, carol %q", s.id("b"), s.id("c"))
	}
	if text := logs.String(); strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, ":2: keys[0].more: unknown") || !strings.Contains(text, ":3: keys[1].sha256: missing") {
		t.Errorf("want one error with both mistakes in:\n%s", text)
	}

	replace(t, path, "keys: []")
	eventually(t, "all keys are revoked", func() bool { return s.id("b") == "" })
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	replace(t, filepath.Join(dir, "bad"), "keys: 1")
	for name, want := range map[string]string{"missing": "no such file", "bad": "bad:1: keys: not a list"} {
		if _, err := Open("partners", filepath.Join(dir, name), now, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", name, err, want)
		}
	}
}

func TestStoreThatWasNeverLoadedCantTell(t *testing.T) {
	var digest [32]byte
	if _, err := new(Store).Lookup(&digest); err == nil {
		t.Error("no error")
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	s, _, _ := open(t, "keys:\n"+entry("alice", "a", ""))
	digest := sha256.Sum256([]byte("a"))
	if n := testing.AllocsPerRun(1000, func() {
		if k, _ := s.Lookup(&digest); k == nil {
			t.Error("not found")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// TestFilesThatAnybodyMayWrite: who may write the file decides who is let in.
func TestFilesThatAnybodyMayWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(path, []byte("keys: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if s, err := Open("partners", path, now, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "must not be writable by other users, got mode 0666") {
		if err == nil {
			s.Close()
		}
		t.Errorf("%v", err)
	}
}
