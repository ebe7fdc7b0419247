// Package socket reads and writes sockets that never block, without telling the Go scheduler.
//
// The syscall package announces each system call to the scheduler, so that it can give the processor away when the call blocks. The announcement wakes the
// runtime's monitor thread whenever the process was idle before, which then polls every 20 µs: on a gateway's pattern of many short wake-ups, that was a fifth of our
// CPU. A call on a non-blocking socket returns at once, so there is nothing to announce.
//
// What is given up: the monitor also preempts goroutines that run for more than 10 ms, and it is woken by the next timer, or the next announced system call, instead of by ours. Every
// process here has timers that tick at least once a second.
package socket

import "syscall"

// Conn reads and writes the socket under a net.Conn. One goroutine reads at a time, and one writes; the two are independent.
type Conn struct {
	raw    syscall.RawConn
	reads  operation
	writes operation
	// The closures, made once: they would escape at every call.
	read, write func(fd uintptr) bool
}

// operation is what a closure works on.
type operation struct {
	b   []byte
	n   int
	err error
}

// New returns nil for what is not a plain socket, such as TLS.
func New(nc any) *Conn {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	c := &Conn{raw: raw}
	c.read = c.reads.read
	c.write = c.writes.write
	return c
}

// Read waits until there is something to read, and reads it into b, which must not be empty. At the end of the peer's side, n is 0 and err nil. Deadlines and Close of the net.Conn
// end the wait.
func (c *Conn) Read(b []byte) (n int, err error) {
	c.reads = operation{b: b}
	if err := c.raw.Read(c.read); err != nil {
		return 0, err
	}
	n, err = c.reads.n, c.reads.err
	c.reads = operation{}
	return n, err
}

// Write writes as much of b as the socket takes without waiting.
func (c *Conn) Write(b []byte) (n int, err error) {
	c.writes = operation{b: b}
	if err := c.raw.Write(c.write); err != nil {
		return 0, err
	}
	n, err = c.writes.n, c.writes.err
	c.writes = operation{}
	return n, err
}

// read reports whether it is done: false has the caller wait until the socket is readable.
func (o *operation) read(fd uintptr) bool {
	for {
		n, errno := read(int(fd), o.b)
		switch errno {
		case 0:
			o.n = n
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			o.err = errno
			return true
		}
	}
}

func (o *operation) write(fd uintptr) bool {
	for o.n < len(o.b) {
		n, errno := write(int(fd), o.b[o.n:])
		switch errno {
		case 0:
			o.n += n
		case syscall.EINTR:
		case syscall.EAGAIN:
			return true
		default:
			o.err = errno
			return true
		}
	}
	return true
}
