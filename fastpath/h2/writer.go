package h2

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// writer puts bytes on the connection. A plain socket is written to without waiting by whoever flushes; what the socket does not take, and all of TLS, is
// left to a goroutine, so that a peer that reads slowly holds up nobody. The connection's lock guards the fields.
type writer struct {
	conn *Conn

	busy   bool // somebody writes
	broken bool
	ending bool // end the connection when all is written
	shut   bool // our side is closed
	spare  []byte
	parked [][]byte       // full buffers, which are sent before Conn.out
	size   int            // of parked, in bytes
	group  sync.WaitGroup // the goroutines
}

// flush sends what waits. The connection is locked; the lock is released during the system call.
func (c *Conn) flush() {
	c.reap()
	c.admitWaiting()
	w := &c.writer
	for c.unsent() > 0 && !w.busy && !w.broken && !w.shut {
		b := w.next()
		w.busy = true
		if c.plain == nil {
			w.handOver(b)
			c.charge()
			c.noteUsage()
			return
		}
		c.mu.Unlock()
		n, err := c.plain.Write(b)
		c.mu.Lock()
		switch {
		case err != nil:
			w.busy = false
			w.abort()
		case n < len(b):
			w.handOver(b[n:])
			c.charge()
			c.noteUsage()
			return
		default:
			w.keep(b)
			w.busy = false
			c.admitWaiting()
		}
	}
	if w.broken || w.shut {
		w.discard()
	}
	c.charge()
	c.noteUsage()
	if w.ending && !w.busy {
		w.shutdown()
	}
}

// Flush sends what was written to the connection's streams. The connection is not locked.
func (c *Conn) Flush() {
	c.mu.Lock()
	c.flush()
	c.mu.Unlock()
}

// checkOut ends the connection of a peer that does not read, when too much waits for it. What gathers before a flush is allowed more.
func (c *Conn) checkOut() {
	limit := 4 * c.cfg.MaxSendBuffer
	if c.writer.busy {
		limit = c.cfg.MaxSendBuffer
	}
	if c.unsent() > limit {
		c.endFor(ReasonUnread)
		c.writer.abort()
	}
	if c.writer.broken {
		c.writer.discard()
	}
}

// unsent is how many bytes wait for the next flush.
func (c *Conn) unsent() int { return c.writer.size + len(c.out) }

// Backlog is how many bytes wait for the peer: for the socket, and for windows. The connection is locked.
func (c *Conn) Backlog() int { return c.unsent() + c.pending }

// grow makes room for n more bytes in c.out. Long messages fill one buffer of a moderate size after the other, which are used again: a single one would be copied as it grows.
func (c *Conn) grow(n int) {
	if w := &c.writer; len(c.out) > flushSize {
		w.parked = append(w.parked, c.out)
		w.size += len(c.out)
		if c.out, w.spare = w.spare, nil; c.out == nil {
			c.out = getSendBuffer()
		}
		c.out = c.out[:0]
	}
	c.out = slices.Grow(c.out, n)
}

// next takes out the buffer that is to be written next. There is one.
func (w *writer) next() []byte {
	c := w.conn
	if len(w.parked) == 0 {
		b := c.out
		c.out, w.spare = w.spare[:0], nil
		return b
	}
	b := w.parked[0]
	w.size -= len(b)
	n := copy(w.parked, w.parked[1:])
	w.parked[n] = nil
	w.parked = w.parked[:n]
	return b
}

// discard forgets what waits.
func (w *writer) discard() {
	w.conn.out, w.parked, w.size = nil, nil, 0
}

// keep keeps a buffer for the next flush, or for others, unless it is unusually large.
func (w *writer) keep(b []byte) {
	switch {
	case cap(b) > w.conn.cfg.KeptSendBuffer:
	case w.spare == nil:
		w.spare = b[:0]
	case cap(b) > flushSize:
		putSendBuffer(b)
	}
}

// handOver leaves b, and all that follows, to a goroutine until nothing is left. busy is set.
func (w *writer) handOver(b []byte) {
	w.group.Add(1)
	go func() {
		defer w.group.Done()
		w.writeBlocking(b)
	}()
}

func (w *writer) writeBlocking(b []byte) {
	c := w.conn
	for {
		err := c.nc.SetWriteDeadline(time.Now().Add(c.cfg.WriteTimeout))
		if err == nil {
			_, err = c.nc.Write(b)
		}
		c.mu.Lock()
		if err == nil {
			// A deadline that has passed would break the next write of try.
			err = c.nc.SetWriteDeadline(time.Time{})
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.endFor(ReasonUnread)
			}
			w.busy = false
			w.abort()
			c.mu.Unlock()
			return
		}
		w.keep(b)
		c.admitWaiting()
		if c.unsent() == 0 || w.broken {
			w.busy = false
			if w.ending {
				w.shutdown()
			}
			c.mu.Unlock()
			return
		}
		b = w.next()
		c.mu.Unlock()
	}
}

// Abort closes the connection at once; what its receivers are told comes from the goroutine that reads it. The connection is locked.
func (c *Conn) Abort() { c.writer.abort() }

// abort closes the socket; the read loop notices.
func (w *writer) abort() {
	w.broken = true
	w.discard()
	w.conn.socket.Close()
}

// shutdown half-closes, so that the peer can read our last frames before it sees the end; the read loop closes the rest.
func (w *writer) shutdown() {
	if w.shut || w.broken {
		return
	}
	w.shut = true
	c := w.conn
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || c.nc.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		w.abort()
		return
	}
	if c.nc == c.socket {
		_ = half.CloseWrite() // Of a socket that is closed already, at worst.
		return
	}
	w.group.Add(1)
	go func() { // TLS writes an alert, which may wait.
		defer w.group.Done()
		_ = half.CloseWrite()
	}()
}

// lingerTimeout is how long we read on after our last frame. A connection that is closed with unread bytes ends in a TCP reset, which can
// take our GOAWAY with it.
const lingerTimeout = 500 * time.Millisecond

// close ends the connection after the read loop; after an error of the protocol it lingers.
func (w *writer) close(linger bool) {
	c := w.conn
	c.mu.Lock()
	w.ending = true
	if !w.busy {
		w.shutdown()
	}
	c.mu.Unlock()
	if linger {
		drainRead(c.nc)
	}
	c.mu.Lock()
	w.abort()
	w.spare = nil
	c.mu.Unlock()
	w.group.Wait()
}

func drainRead(nc net.Conn) {
	if nc.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		return
	}
	buf := make([]byte, 4096)
	for total := 0; total < 1<<20; {
		n, err := nc.Read(buf)
		total += n
		if err != nil {
			return
		}
	}
}
