// Package watch follows the content of a file.
package watch

import (
	"crypto/sha256"
	"fmt"
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
	// MaxSize is how many bytes the file may have.
	MaxSize int64
	// Load takes each new content of the file; it owns the slice. Its error means that the content is of no use: what was loaded before stays. Calls are never concurrent.
	Load func(content []byte) error
	// Log gets one line for each failure after the first load.
	Log *slog.Logger

	// Poll is the time between two looks at the file whatever the system tells of it; 0 means 5 seconds.
	Poll time.Duration
	// Settle is how long the folder must be quiet after a change before the file is read, so that a writer can finish; 0 means 50 ms.
	Settle time.Duration
	// PollOnly asks the system for nothing.
	PollOnly bool
}

// File is a file whose content is followed, through renames over it, swaps of symbolic links on the way to it, and writes in place.
type File struct {
	settings Settings
	notifier *fsnotify.Watcher // nil when there is none
	last     [sha256.Size]byte // of the content that Load saw last
	failure  string            // the last error that was logged; empty after a success

	closing chan struct{}
	closed  chan struct{}
	once    sync.Once
}

// Follow loads the file and follows it until Close. An error of the first load is returned, and nothing is followed then.
func Follow(s Settings) (*File, error) {
	if s.Poll == 0 {
		s.Poll = 5 * time.Second
	}
	if s.Settle == 0 {
		s.Settle = 50 * time.Millisecond
	}
	f := &File{settings: s, closing: make(chan struct{}), closed: make(chan struct{})}
	// The notifier comes before the first load: a change in between is seen then.
	if !s.PollOnly {
		f.notify()
	}
	if err := f.load(); err != nil {
		f.closeNotifier()
		return nil, err
	}
	go f.run()
	return f, nil
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
	w, err := fsnotify.NewWatcher()
	if err == nil {
		if err = w.Add(filepath.Dir(f.settings.Path)); err == nil {
			f.notifier = w
			return
		}
		_ = w.Close()
	}
	f.settings.Log.Warn("no notice of file changes from the system; the file is polled", "file", f.settings.Path, "error", err)
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
		select {
		case <-f.closing:
			return
		case <-events:
			settle.Reset(f.settings.Settle)
		case <-errs: // Such as an overflow of the system's queue: something was missed.
			settle.Reset(f.settings.Settle)
		case <-settle.C:
			f.look()
		case <-poll.C:
			if f.notifier != nil {
				// The folder itself may have been replaced; for one that is watched already this does nothing.
				_ = f.notifier.Add(filepath.Dir(f.settings.Path))
			}
			f.look()
		}
	}
}

// look loads the file if it changed, and logs each failure once.
func (f *File) look() {
	err := f.load()
	switch {
	case err == nil:
		f.failure = ""
	case f.failure != err.Error():
		f.failure = err.Error()
		f.settings.Log.Error("file not loaded; what was loaded before stays in use", "file", f.settings.Path, "error", err)
	}
}

// load reads the file, and hands it to Load if it has another content than Load saw last.
func (f *File) load() error {
	content, err := f.read()
	if err != nil {
		return err
	}
	digest := sha256.Sum256(content)
	if digest == f.last {
		return nil
	}
	f.last = digest
	return f.settings.Load(content)
}

func (f *File) read() ([]byte, error) {
	file, err := os.Open(f.settings.Path)
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read file %q: it is not a regular file", f.settings.Path)
	}
	content, err := io.ReadAll(io.LimitReader(file, f.settings.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	if int64(len(content)) > f.settings.MaxSize {
		return nil, fmt.Errorf("read file %q: it is too large; legal are %d bytes", f.settings.Path, f.settings.MaxSize)
	}
	return content, nil
}

var _ io.Closer = (*File)(nil)
