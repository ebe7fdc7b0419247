package telemetry

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// maxPending is how many bytes of log may wait for the writer.
const maxPending = 1 << 20

// errNotFlushed says that the underlying writer was too slow.
var errNotFlushed = errors.New("flush log: the writer is blocked")

// Writer writes records from a goroutine of its own, so that nobody who logs waits for a disk or a pipe. What doesn't fit in its bounded
// buffer is dropped and counted.
type Writer struct {
	w    io.Writer
	lost atomic.Uint64
	// resumed makes the record that says, once the log can be written again, how many were lost until then. It is set before the first one is appended, or nil.
	resumed func(lost uint64) []byte

	mu       sync.Mutex
	pending  []byte        // whole records
	appended uint64        // records that ever came into pending
	handled  uint64        // records of them that the goroutine is done with
	progress chan struct{} // closed when handled grows; nil when nobody waits
	closed   bool
	wake     chan struct{} // holds one token when there is something to do
}

// NewWriter starts the goroutine; Close ends it.
func NewWriter(w io.Writer) *Writer {
	wr := &Writer{w: w, wake: make(chan struct{}, 1)}
	go wr.run()
	return wr
}

// Lost is how many records were dropped or could not be written.
func (w *Writer) Lost() uint64 { return w.lost.Load() }

// append takes a copy of one record, which ends with a newline.
func (w *Writer) append(record []byte) {
	w.mu.Lock()
	if w.closed || len(w.pending)+len(record) > maxPending {
		w.mu.Unlock()
		w.lost.Add(1)
		return
	}
	w.pending = append(w.pending, record...)
	w.appended++
	w.mu.Unlock()
	w.signal()
}

func (w *Writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *Writer) run() {
	var batch []byte
	var told uint64 // of the lost records
	torn := false
	for range w.wake {
		for {
			w.mu.Lock()
			batch, w.pending = w.pending, batch[:0]
			appended, closed := w.appended, w.closed
			w.mu.Unlock()
			if len(batch) == 0 {
				if closed {
					return
				}
				break
			}
			torn, told = w.tell(torn, told)
			torn = w.write(batch, torn)
			w.mu.Lock()
			w.handled = appended
			if w.progress != nil {
				close(w.progress)
				w.progress = nil
			}
			w.mu.Unlock()
		}
	}
}

// tell says what was lost since it was told the last time, if it can.
func (w *Writer) tell(torn bool, told uint64) (stillTorn bool, now uint64) {
	lost := w.lost.Load()
	if w.resumed == nil || lost == told {
		return torn, told
	}
	record := w.resumed(lost - told)
	if torn {
		record = append([]byte{'\n'}, record...)
	}
	n, err := w.w.Write(record)
	if err != nil {
		return torn && n <= 0 || n > 0 && n < len(record) && record[n-1] != '\n', told
	}
	return false, lost
}

// write writes a batch. After a write that ended within a record (a full disk) the next one starts on a new line.
func (w *Writer) write(batch []byte, torn bool) bool {
	if torn {
		if _, err := w.w.Write([]byte{'\n'}); err != nil {
			w.lost.Add(uint64(bytes.Count(batch, []byte{'\n'})))
			return true
		}
	}
	n, err := w.w.Write(batch)
	if err == nil {
		return false
	}
	n = max(0, min(n, len(batch)))
	w.lost.Add(uint64(bytes.Count(batch[n:], []byte{'\n'})))
	return n > 0 && batch[n-1] != '\n'
}

// Flush waits until everything that was logged before is written, or the time is over.
func (w *Writer) Flush(timeout time.Duration) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	w.mu.Lock()
	want := w.appended
	for w.handled < want {
		if w.progress == nil {
			w.progress = make(chan struct{})
		}
		progress := w.progress
		w.mu.Unlock()
		select {
		case <-progress:
		case <-timer.C:
			return errNotFlushed
		}
		w.mu.Lock()
	}
	w.mu.Unlock()
	return nil
}

// Close flushes within the time and ends the goroutine as soon as the underlying writer lets it go.
func (w *Writer) Close(timeout time.Duration) error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	err := w.Flush(timeout)
	w.signal()
	return err
}
