package watch

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// replace renames a new file over path.
func replace(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

// TestCheckSeesWhatIsRead replaces the file while it is checked: what is read is what was checked.
func TestCheckSeesWhatIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	replace(t, path, "checked", 0o600)
	content, err := ReadChecked(path, 10, func(*os.File) error {
		replace(t, path, "replaced", 0o600)
		return nil
	})
	if err != nil || string(content) != "checked" {
		t.Errorf("%q, %v", content, err)
	}
}

// TestCheckedFileIsFollowed replaces a file that is followed by one that does not pass the check: it is not loaded, and
// the failure is reported; the next good one is loaded.
func TestCheckedFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	loaded, failed, refused := make(chan string, 10), make(chan error, 10), errors.New("the file is open to others")
	replace(t, path, "first", 0o600)
	f, err := Follow(Settings{
		Path: path, MaxSize: 10, Log: slog.New(slog.DiscardHandler), Poll: 10 * time.Millisecond, Settle: time.Millisecond,
		Check: func(f *os.File) error {
			if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
				return refused
			}
			return nil
		},
		Load:   func(content []byte) error { loaded <- string(content); return nil },
		Failed: func(err error) { failed <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := <-loaded; got != "first" {
		t.Fatal(got)
	}
	replace(t, path, "second", 0o640)
	if err := <-failed; !errors.Is(err, refused) {
		t.Error(err)
	}
	replace(t, path, "third", 0o600)
	if got := <-loaded; got != "third" {
		t.Errorf("loaded %q", got)
	}
}

func TestFollowChecksFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	replace(t, path, "first", 0o600)
	refused := errors.New("refused")
	f, err := Follow(Settings{
		Path: path, MaxSize: 10, Log: slog.New(slog.DiscardHandler), Check: func(*os.File) error { return refused },
		Load: func([]byte) error { t.Error("loaded"); return nil },
	})
	if !errors.Is(err, refused) {
		t.Error(err)
	}
	if err == nil {
		f.Close()
	}
}
