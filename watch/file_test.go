package watch

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// log is a log that tests read while it is written.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

func (l *log) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

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

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ways are how tools change a file. Each begins with the content "one" at the path it returns, and its change makes it "two".
var ways = map[string]func(t *testing.T, dir string) (path string, change func()){
	"write in place": func(t *testing.T, dir string) (string, func()) {
		path := filepath.Join(dir, "file")
		write(t, path, "one")
		return path, func() { write(t, path, "two") }
	},
	"rename over it": func(t *testing.T, dir string) (string, func()) {
		path := filepath.Join(dir, "file")
		write(t, path, "one")
		return path, func() {
			write(t, path+".tmp", "two")
			if err := os.Rename(path+".tmp", path); err != nil {
				t.Error(err)
			}
		}
	},
	"symlink swap, as kubelet does": func(t *testing.T, dir string) (string, func()) {
		for _, v := range []string{"one", "two"} {
			if err := os.Mkdir(filepath.Join(dir, v), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, v, "file"), v)
		}
		link := func(target, name string) {
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Error(err)
			}
		}
		link("one", "..data")
		link("..data/file", "file")
		return filepath.Join(dir, "file"), func() {
			link("two", "..tmp")
			if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
				t.Error(err)
			}
		}
	},
	"removed, then written": func(t *testing.T, dir string) (string, func()) {
		path := filepath.Join(dir, "file")
		write(t, path, "one")
		return path, func() {
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
			write(t, path, "two")
		}
	},
}

func TestChangesAreLoaded(t *testing.T) {
	for name, way := range ways {
		for how, settings := range map[string]Settings{
			"notice": {Poll: time.Hour, Settle: time.Millisecond},
			"poll":   {Poll: 2 * time.Millisecond, PollOnly: true},
		} {
			t.Run(name+" by "+how, func(t *testing.T) {
				path, change := way(t, t.TempDir())
				got := make(chan string, 9)
				settings.Path, settings.MaxSize, settings.Log = path, 10, new(log).logger()
				settings.Load = func(content []byte) error { got <- string(content); return nil }
				f, err := Follow(settings)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if first := <-got; first != "one" {
					t.Fatalf("loaded %q at first, want one", first)
				}
				change()
				eventually(t, "two is loaded", func() bool {
					select {
					case content := <-got:
						return content == "two"
					default:
						return false
					}
				})
			})
		}
	}
}

// TestHalfIsNotLoaded: what a process has open for writing waits until it is closed, however long its pauses are.
func TestHalfIsNotLoaded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "one")
	got := make(chan string, 9)
	f, err := Follow(Settings{Path: path, MaxSize: 10, Log: new(log).logger(), Poll: 3 * time.Millisecond, Settle: time.Millisecond, Load: func(content []byte) error { got <- string(content); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	<-got
	half, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"t", "w", "o"} {
		time.Sleep(20 * time.Millisecond) // A writer's pause, much longer than the file has to be quiet.
		if _, err := half.WriteString(part); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) > 0 {
		t.Errorf("loaded %q while it was written", <-got)
	}
	if err := half.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case content := <-got:
		if content != "two" {
			t.Errorf("loaded %q", content)
		}
	case <-time.After(10 * time.Second):
		t.Error("the whole file was never loaded")
	}
}

// TestBeginningIsNotLoaded: where nothing is known of who writes, a content without an end waits for one, and counts in the end.
func TestBeginningIsNotLoaded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "one\n")
	got := make(chan string, 9)
	f, err := Follow(Settings{
		Path: path, MaxSize: 10, Log: new(log).logger(), Poll: 3 * time.Millisecond, Settle: time.Millisecond, Patience: 2 * time.Second,
		Complete: func(content []byte) bool { return bytes.HasSuffix(content, []byte("\n")) },
		Load:     func(content []byte) error { got <- string(content); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	<-got
	write(t, path, "t")
	time.Sleep(30 * time.Millisecond)
	write(t, path, "two\n")
	if content := <-got; content != "two\n" {
		t.Errorf("loaded %q", content)
	}
	began := time.Now()
	write(t, path, "three")
	if content := <-got; content != "three" || time.Since(began) < 300*time.Millisecond {
		t.Errorf("loaded %q after %v", content, time.Since(began))
	}
}

// TestBadFilesAreTold: whatever becomes of the file, what was loaded stays, each failure is told once, and the next good file is loaded.
func TestBadFilesAreTold(t *testing.T) {
	put := func(make func(path string) error) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := errors.Join(os.RemoveAll(path), make(path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	bad := map[string]struct {
		put  func(*testing.T, string)
		want string
	}{
		"missing":        {put(func(string) error { return nil }), "no such file"},
		"folder":         {put(func(path string) error { return os.Mkdir(path, 0o700) }), "not a regular file"},
		"pipe":           {put(func(path string) error { return syscall.Mkfifo(path, 0o600) }), "not a regular file"},
		"device":         {put(func(path string) error { return os.Symlink("/dev/zero", path) }), "not a regular file"},
		"link to itself": {put(func(path string) error { return os.Symlink(path, path) }), "too many levels"},
		"huge":           {put(func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<40)) }), "too large"},
		"refused":        {put(func(path string) error { return os.WriteFile(path, []byte("bad"), 0o600) }), "is bad"},
		"still written": {func(t *testing.T, path string) {
			file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = file.Close() })
		}, "open for writing"},
	}
	if os.Geteuid() != 0 { // Root may read everything.
		bad["unreadable"] = struct {
			put  func(*testing.T, string)
			want string
		}{put(func(path string) error { return os.WriteFile(path, []byte("two"), 0) }), "permission denied"}
	}
	for name, tt := range bad {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			write(t, path, "one")
			loads, failures := make(chan string, 99), make(chan error, 99)
			f, err := Follow(Settings{
				Path: path, MaxSize: 10, Log: new(log).logger(), Poll: 2 * time.Millisecond, Settle: time.Millisecond, Patience: 20 * time.Millisecond,
				Load: func(content []byte) error {
					if string(content) == "bad" {
						return errors.New("is bad")
					}
					loads <- string(content)
					return nil
				},
				Failed: func(err error) { failures <- err },
			})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			<-loads
			tt.put(t, path)
			eventually(t, "it is told", func() bool { // "missing" comes before some of the others.
				select {
				case err := <-failures:
					return strings.Contains(err.Error(), tt.want)
				default:
					return false
				}
			})
			time.Sleep(20 * time.Millisecond)
			if len(loads)+len(failures) > 0 {
				t.Errorf("%d loads and %d more failures", len(loads), len(failures))
			}
			put(func(path string) error { return os.WriteFile(path, []byte("two"), 0o600) })(t, path)
			if content := <-loads; content != "two" {
				t.Errorf("loaded %q", content)
			}
		})
	}
}

func TestFollowRefuses(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "large"), "12345678901")
	for name, want := range map[string]string{"missing": "no such file", "large": "too large", ".": "not a regular file"} {
		t.Run(name, func(t *testing.T) {
			_, err := Follow(Settings{Path: filepath.Join(dir, name), MaxSize: 10, Log: new(log).logger(), Load: func([]byte) error { return nil }})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want one with %q", err, want)
			}
		})
	}
	t.Run("bad content", func(t *testing.T) {
		write(t, filepath.Join(dir, "bad"), "bad")
		bad := errors.New("bad")
		if _, err := Follow(Settings{Path: filepath.Join(dir, "bad"), MaxSize: 10, Log: new(log).logger(), Load: func([]byte) error { return bad }}); !errors.Is(err, bad) {
			t.Errorf("error %v, want that of Load", err)
		}
	})
}

func TestFailureIsLoggedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "one")
	l := new(log)
	loads := make(chan string, 99)
	f, err := Follow(Settings{Path: path, MaxSize: 10, Log: l.logger(), Poll: time.Millisecond, PollOnly: true, Load: func(content []byte) error {
		loads <- string(content)
		if string(content) == "bad" {
			return errors.New("is bad")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	<-loads
	write(t, path+".tmp", "bad")
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the bad content is logged", func() bool { return l.count("is bad") == 1 })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the missing file is logged", func() bool { return l.count("no such file") == 1 })
	write(t, path+".tmp", "one")
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the good content is loaded again", func() bool { return len(loads) == 2 })
	if l.count("level=ERROR") != 2 {
		t.Errorf("%d errors logged, want each once", l.count("level=ERROR"))
	}
}
