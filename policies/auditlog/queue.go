package auditlog

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/policy-engine/policy-engine/policies"
)

const (
	// queueLen is how many lines may wait to be written.
	queueLen = 1024
	// maxLine is the largest memory of a line that is kept for later ones, in bytes.
	maxLine = 8 << 10
	// interval is how often the file is looked after, in case that it was moved away (as log rotation does), and how often a write that failed is tried again.
	interval = time.Second
	// lingering is how long the end waits for lines that are still to be written.
	lingering = 5 * time.Second
)

// line is one line on its way. Whoever has it owns it.
type line struct {
	log  *slog.Logger
	id   []byte // of the request
	text []byte // JSON, without a line break
}

// queue writes lines from a goroutine of its own, so that no request waits for a disk. Its lines are made once: who finds none free loses the line.
type queue struct {
	path  string // empty: the lines go to the worker's log
	clock policies.Clock
	log   *slog.Logger
	lost  policies.Counter

	free, full chan *line
	broken     atomic.Bool // the file can't be written
	closing    chan struct{}
	done       chan struct{}
	once       sync.Once

	// The goroutine's own.
	file   *os.File
	looked time.Time
	torn   bool // the last write ended within a line
}

func newQueue(path string, clock policies.Clock, log *slog.Logger, lost policies.Counter) *queue {
	q := &queue{
		path: path, clock: clock, log: log, lost: lost,
		free: make(chan *line, queueLen), full: make(chan *line, queueLen), closing: make(chan struct{}), done: make(chan struct{}),
	}
	for range queueLen {
		q.free <- &line{}
	}
	go q.run()
	return q
}

// take returns a line to fill in. It never waits. strict: none while the file can't be written.
func (q *queue) take(strict bool) (*line, bool) {
	if strict && q.broken.Load() {
		return nil, false
	}
	select {
	case l := <-q.free:
		return l, true
	default:
		return nil, false
	}
}

// put gives the line to the writer. There is room for all lines that there are.
func (q *queue) put(l *line) { q.full <- l }

func (q *queue) run() {
	defer close(q.done)
	for {
		select {
		case l := <-q.full:
			q.deliver(l)
		case <-q.closing:
			for len(q.full) > 0 {
				q.deliver(<-q.full)
			}
			if q.file != nil {
				_ = q.file.Close() // Each line was written or counted.
			}
			return
		}
	}
}

// deliver writes a line, and tries again while that fails, until the end. Those behind it wait in the queue.
func (q *queue) deliver(l *line) {
	for err := q.write(l); err != nil; err = q.write(l) {
		if !q.broken.Swap(true) {
			q.log.Error("audit log can't be written", "file", q.path, "error", err.Error())
		}
		if !q.pause() {
			q.lost.Inc()
			break
		}
	}
	if cap(l.text) > maxLine {
		l.text = nil
	}
	q.free <- l
}

// pause waits for the next attempt; false: it is the end, and there is none.
func (q *queue) pause() bool {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-q.closing:
		return false
	}
}

func (q *queue) write(l *line) error {
	if q.path == "" {
		// Text of JSON in the worker's own line.
		l.log.LogAttrs(context.Background(), slog.LevelInfo, "audit", slog.String("request_id", string(l.id)), slog.Any("audit", json.RawMessage(l.text)))
		return nil
	}
	if err := q.append(l.text); err != nil {
		return err
	}
	if q.broken.Swap(false) {
		q.log.Info("audit log is written again", "file", q.path)
	}
	return nil
}

// append writes one line to the file.
func (q *queue) append(text []byte) error {
	if err := q.look(); err != nil {
		return err
	}
	text = append(text, '\n')
	if q.torn { // What is there of the last attempt stands by itself.
		text = append([]byte{'\n'}, text...)
	}
	n, err := q.file.Write(text)
	if err != nil {
		q.torn = q.torn || n > 0
		return err
	}
	q.torn = false
	return nil
}

// look opens the file if it is not open, or is another one than the one of that name.
func (q *queue) look() error {
	now := q.clock.Now()
	if age := now.Sub(q.looked); q.file != nil && age >= 0 && age < interval {
		return nil
	}
	q.looked = now
	if q.file != nil {
		there, err := os.Stat(q.path)
		mine, mineErr := q.file.Stat()
		if err == nil && mineErr == nil && os.SameFile(there, mine) {
			return nil
		}
		_ = q.file.Close() // Each line was written or counted.
		q.file, q.torn = nil, false
	}
	// Not through a link that somebody put there, and without waiting for the reader of a pipe.
	f, err := os.OpenFile(q.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	if s, err := f.Stat(); err != nil || !s.Mode().IsRegular() {
		_ = f.Close()
		return fmt.Errorf("open %s: it is not a regular file", q.path)
	}
	q.file = f
	return nil
}

// Close writes what waits. All policies that used the queue are gone.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.closing) })
	timer := time.NewTimer(lingering)
	defer timer.Stop()
	select {
	case <-q.done:
		return nil
	case <-timer.C:
		return fmt.Errorf("close audit log: %d lines are not written", len(q.full))
	}
}

var _ io.Closer = (*queue)(nil)
