package jwks

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/policy-engine/policy-engine/config"
)

// TestBadFilesLeaveTheSet: whatever becomes of the file, the last good key set stays, and the next good one counts.
func TestBadFilesLeaveTheSet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jwks.json")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	replace := func(content string) {
		t.Helper()
		must(errors.Join(os.WriteFile(path+".tmp", []byte(content), 0o600), os.Rename(path+".tmp", path)))
	}
	replace(setA)
	logs := new(lockedBuffer)
	i, err := Open(config.JWTIssuer{Name: "demo", Issuer: "https://demo.example", JWKSFile: path}, bubbleClock{}, slog.New(slog.NewTextHandler(logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	for name, bad := range map[string]func(){
		"empty":   func() { replace("") },
		"half":    func() { replace(setAB[:len(setAB)-20]) },
		"binary":  func() { replace("\x00\x01\xff") },
		"huge":    func() { must(os.Truncate(path, 1<<40)) },
		"missing": func() { must(os.Remove(path)) },
		"pipe":    func() { must(errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600))) },
	} {
		before, generation := logs.count("level=ERROR"), i.Keys().Generation
		bad()
		eventually(t, name+" is told", func() bool { return logs.count("level=ERROR") > before })
		if kids(i) != "a" || i.Keys().Generation != generation {
			t.Errorf("%s: keys %s, want the last good ones", name, kids(i))
		}
		must(os.RemoveAll(path))
		replace(setAB)
		eventually(t, "the next good set counts", func() bool { return kids(i) == "a,b" })
		replace(setA)
		eventually(t, "and the one after it", func() bool { return kids(i) == "a" })
	}
}
