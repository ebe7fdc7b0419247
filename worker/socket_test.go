package worker

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// socketFolder is short, since a socket's path is limited.
func socketFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}

func mustListen(t *testing.T, path string) *socket {
	t.Helper()
	s, err := listenSocket(path, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestSocketMode(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		old := syscall.Umask(umask)
		folder := socketFolder(t)
		os.Chmod(folder, 0o700)
		path := filepath.Join(folder, "w.sock")
		s, err := listenSocket(path, false)
		syscall.Umask(old)
		if err != nil {
			t.Fatalf("umask %o: %v", umask, err)
		}
		defer s.Close()
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode(); got != fs.ModeSocket|0o600 {
			t.Errorf("umask %o: mode %v", umask, got)
		}
		if left, err := filepath.Glob(filepath.Join(folder, ".*")); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func TestSocketFolderIsMade(t *testing.T) {
	path := filepath.Join(socketFolder(t), "a", "b", "w.sock")
	mustListen(t, path)
	info, err := os.Stat(filepath.Dir(path))
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("folder %v, %v", info, err)
	}
}

func TestStaleSocket(t *testing.T) {
	path := filepath.Join(socketFolder(t), "w.sock")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listenSocket(path, false); err == nil || !strings.Contains(err.Error(), "another process listens on it") {
		t.Fatalf("taken from a process that listens: %v", err)
	}
	old.SetUnlinkOnClose(false)
	old.Close()
	s := mustListen(t, path)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	s.Close()
	if err := s.remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	if err := s.remove(); err != nil { // Somebody else was faster.
		t.Error(err)
	}
}

func TestSocketRefuses(t *testing.T) {
	folder := socketFolder(t)
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ path, want string }{
		"a file":        {file, "a file that is not a socket"},
		"a folder":      {folder, "a file that is not a socket"},
		"below a file":  {filepath.Join(file, "x", "w.sock"), "not a directory"},
		"a long path":   {filepath.Join(folder, strings.Repeat("x", 108)), "too long"},
		"a symlink":     {filepath.Join(folder, "link"), "a file that is not a socket"},
		"an empty path": {"", "the path is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "a symlink" {
				if err := os.Symlink(file, tt.path); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := listenSocket(tt.path, false); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "precious" {
		t.Errorf("the file: %q, %v", content, err)
	}
}

// TestSocketOfAnother: a socket that replaced ours stays.
func TestSocketOfAnother(t *testing.T) {
	path := filepath.Join(socketFolder(t), "w.sock")
	ours := mustListen(t, path)
	ours.Close()
	mustListen(t, path)
	if err := ours.remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error("removed another's socket")
	}
}

// TestSocketRace: of workers that start at once over a stale socket, one gets it.
func TestSocketRace(t *testing.T) {
	path := filepath.Join(socketFolder(t), "w.sock")
	stale := mustListen(t, path)
	stale.Close()
	var wg sync.WaitGroup
	got := make(chan *socket, 20)
	for range cap(got) {
		wg.Go(func() {
			if s, err := listenSocket(path, false); err == nil {
				got <- s
			}
		})
	}
	wg.Wait()
	close(got)
	n := 0
	for s := range got {
		s.Close()
		n++
	}
	if n != 1 {
		t.Errorf("%d got the socket, want 1", n)
	}
}
