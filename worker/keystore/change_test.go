package keystore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestBadFilesLeaveTheKeys: whatever becomes of the file, the last good keys stay, one line tells why, and the next good file counts, however it comes.
func TestBadFilesLeaveTheKeys(t *testing.T) {
	s, path, logs := open(t, "keys:\n"+entry("alice", "a", ""))
	good := func(id string) string { return "keys:\n" + entry(id, id, "") }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ways := []struct {
		name string
		bad  func()
		want string
		mend func(text string)
	}{
		{"empty", func() { replace(t, path, "") }, "", func(text string) { replace(t, path, text) }},
		{"half", func() { replace(t, path, good("zoe")[:40]) }, "", func(text string) { must(os.WriteFile(path, []byte(text), 0o600)) }},
		{"binary", func() { replace(t, path, "\x7fELF\x00\xff") }, "", func(text string) { must(errors.Join(os.Remove(path), os.WriteFile(path, []byte(text), 0o600))) }},
		{"huge", func() { must(os.Truncate(path, 1<<40)) }, "too large", func(text string) { replace(t, path, text) }},
		{"missing", func() { must(os.Remove(path)) }, "no such file", func(text string) { replace(t, path, text) }},
		{"pipe", func() { must(errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600))) }, "not a regular file", func(text string) { replace(t, path, text) }},
		{"folder", func() { must(errors.Join(os.Remove(path), os.Mkdir(path, 0o700))) }, "not a regular file", func(text string) {
			must(os.Remove(path))
			target := filepath.Join(filepath.Dir(path), "target")
			replace(t, target, text)
			must(os.Symlink("target", path))
		}},
		{"a link to nothing", func() { must(errors.Join(os.Remove(path), os.Symlink("nothing", path))) }, "no such file", func(text string) { replace(t, path, text) }},
	}
	key := "a"
	for i, way := range ways {
		before := strings.Count(logs.String(), "level=ERROR")
		way.bad()
		eventually(t, way.name+" is told", func() bool {
			all := logs.String()
			return strings.Count(all, "level=ERROR") > before && strings.Contains(all, way.want)
		})
		if s.id(key) == "" || s.id("zoe") != "" {
			t.Errorf("%s: the last good keys are gone", way.name)
		}
		key = "b" + string(rune('a'+i))
		way.mend(good(key))
		eventually(t, "after "+way.name+", the next good file counts", func() bool { return s.id(key) == key })
	}
}
