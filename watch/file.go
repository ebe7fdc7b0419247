// Package watch follows the content of a file.
package watch

import (
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Settings are how a File is followed.
type Settings struct {
	// Path is the file.
	Path string
	// Check is what the opened file has to pass before it is read (ReadChecked); nil means nothing.
	Check func(*os.File) error
	// MaxSize is how many bytes the file may have.
	MaxSize int64
	// Load takes each new content of the file; it owns the slice. Its error means that the content is of no use: what was loaded before stays. Calls are never concurrent.
	Load func(content []byte) error
	// Failed is told, once for each failure after the first load, why what was loaded before stays: the error of Load, or why the file can't be read. If it is nil, Log gets a line.
	// Calls of it and of Load are never concurrent.
	Failed func(error)
	// Log gets one line for each failure after the first load, and warnings.
	Log *slog.Logger

	// Poll is the time between two looks at the file whatever the system tells of it; 0 means 5 seconds.
	Poll time.Duration
	// Settle is how long the folder must be quiet after a change before the file is read, and for how long the content must stay the same before it is loaded, so that a writer can
	// finish; 0 means 50 ms.
	Settle time.Duration
	// Complete says of a content that it has an end; nil means that all have. One that has none, and may be the beginning of one, has to stay the same for Patience.
	Complete func(content []byte) bool
	// Patience is how long a process may have the file open for writing before that is a failure; 0 means 10 seconds.
	Patience time.Duration
	// PollOnly asks the system for nothing.
	PollOnly bool
}

type digest [sha256.Size]byte

// File is a file whose content is followed, through renames over it, swaps of symbolic links on the way to it, and writes in place.
//
// Who writes in place shows others a half of what he means. Where the system tells, no file is loaded that is open for writing; everywhere, a content has to stay the same for a
// while. Neither helps against a writer that pauses between two opens: renaming a whole file over the old one is the safe way.
type File struct {
	settings Settings
	notifier *fsnotify.Watcher // nil when there is none
	last     digest            // of the content that Load saw last
	seen     digest            // of the content that was read last, which has to stay the same
	since    time.Time         // when it was read first
	busy     time.Time         // since when the file is open for writing
	failure  string            // the last error that was told; empty after a success

	closing chan struct{}
	closed  chan struct{}
	once    sync.Once
}

// Follow loads the file and follows it until Close. An error of the first load is returned, and nothing is followed then.
func Follow(s Settings) (*File, error) {
	f := newFile(s)
	// The notifier comes before the first load: a change in between is seen then.
	f.notify()
	content, err := ReadChecked(s.Path, s.MaxSize, s.Check)
	if err == nil {
		f.last = sha256.Sum256(content)
		err = s.Load(content)
	}
	if err != nil {
		f.closeNotifier()
		return nil, err
	}
	go f.run()
	return f, nil
}

// FollowFrom follows the file until Close. The content with the SHA-256 loaded was loaded already.
func FollowFrom(loaded [sha256.Size]byte, s Settings) *File {
	f := newFile(s)
	f.last = loaded
	f.notify()
	go f.run()
	return f
}

func newFile(s Settings) *File {
	if s.Poll == 0 {
		s.Poll = 5 * time.Second
	}
	if s.Settle == 0 {
		s.Settle = 50 * time.Millisecond
	}
	if s.Patience == 0 {
		s.Patience = 10 * time.Second
	}
	if s.Failed == nil {
		s.Failed = func(err error) {
			s.Log.Error("file not loaded; what was loaded before stays in use", "file", s.Path, "error", err)
		}
	}
	return &File{settings: s, closing: make(chan struct{}), closed: make(chan struct{})}
}

// Close ends the following. Load is not called after it.
func (f *File) Close() error {
	f.once.Do(func() { close(f.closing) })
	<-f.closed
	return nil
}

// notify asks the system to tell of changes in the file's folder. The folder, since a watch on the file itself ends when another one
// is renamed over it. Where the system can't, the polls remain.
func (f *File) notify() {
	if f.settings.PollOnly {
		return
	}
	w, err := fsnotify.NewWatcher()
	if err == nil {
		if err = w.Add(filepath.Dir(f.settings.Path)); err == nil {
			f.notifier = w
			f.watchTarget()
			return
		}
		_ = w.Close()
	}
	f.settings.Log.Warn("no notice of file changes from the system; the file is polled", "file", f.settings.Path, "error", err)
}

// watchTarget watches the folder that the file is really in, if it is behind a symbolic link. Without notice of it the polls remain.
func (f *File) watchTarget() {
	if real, err := filepath.EvalSymlinks(f.settings.Path); err == nil && filepath.Dir(real) != filepath.Clean(filepath.Dir(f.settings.Path)) {
		_ = f.notifier.Add(filepath.Dir(real))
	}
}

func (f *File) closeNotifier() {
	if f.notifier != nil {
		_ = f.notifier.Close()
	}
}

func (f *File) run() {
	defer close(f.closed)
	defer f.closeNotifier()
	var events <-chan fsnotify.Event // nil channels never deliver
	var errs <-chan error
	if f.notifier != nil {
		events, errs = f.notifier.Events, f.notifier.Errors
	}
	poll := time.NewTicker(f.settings.Poll)
	defer poll.Stop()
	settle := time.NewTimer(time.Hour)
	settle.Stop()
	defer settle.Stop()
	for {
		again := false
		select {
		case <-f.closing:
			return
		case <-events:
			again = true
		case <-errs: // Such as an overflow of the system's queue: something was missed.
			again = true
		case <-settle.C:
			again = f.look()
		case <-poll.C:
			if f.notifier != nil {
				// The folder itself may have been replaced; for one that is watched already this does nothing.
				_ = f.notifier.Add(filepath.Dir(f.settings.Path))
				f.watchTarget()
			}
			again = f.look()
		}
		if again {
			settle.Reset(f.settings.Settle)
		}
	}
}

// look loads the file if it has another content than Load saw last, and has had it for a while; again says that it wants to look again soon.
func (f *File) look() (again bool) {
	content, err := ReadChecked(f.settings.Path, f.settings.MaxSize, f.settings.Check)
	var busy *BusyError
	if !errors.As(err, &busy) {
		f.busy = time.Time{}
	} else if f.busy.IsZero() {
		f.busy = time.Now()
	}
	if busy != nil && time.Since(f.busy) < f.settings.Patience {
		return true
	}
	if err == nil {
		sum := digest(sha256.Sum256(content))
		if sum == f.last {
			f.seen = sum
			return false
		}
		if sum != f.seen {
			f.seen, f.since = sum, time.Now()
			return true
		}
		if f.settings.Complete != nil && !f.settings.Complete(content) && time.Since(f.since) < f.settings.Patience {
			return true
		}
		f.last = sum
		err = f.settings.Load(content)
	} else {
		f.last = digest{} // When the file can be read again, that is news.
	}
	switch {
	case err == nil:
		f.failure = ""
	case f.failure != err.Error():
		f.failure = err.Error()
		f.settings.Failed(err)
	}
	return false
}

var _ io.Closer = (*File)(nil)
