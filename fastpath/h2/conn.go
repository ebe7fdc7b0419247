package h2

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/policy-engine/policy-engine/fastpath/memory"
	"github.com/policy-engine/policy-engine/fastpath/socket"
)

// Conn is one HTTP/2 connection. One goroutine reads it and handles every frame of a read; answers may come from any goroutine that holds its lock.
type Conn struct {
	// Attachment is the handler's own; guarded by the lock.
	Attachment any

	owner  owner
	cfg    *Config
	socket net.Conn     // closing it never waits
	nc     net.Conn     // the socket, or TLS on it
	plain  *socket.Conn // nil for TLS

	turn atomic.Uint32 // which goroutine reads: it grows with each HandOver
	in   input         // of the goroutine that reads

	lastFrame atomic.Int64 // when the last whole frame came: owner's clock, in nanoseconds

	mu      sync.Mutex
	writer  writer
	out     []byte // frames that wait for the next flush, behind those of writer.parked
	scratch []byte

	streams    map[uint32]*Stream
	free       []*Stream
	active     int    // streams whose end we have not sent
	lastID     uint32 // highest stream identifier seen
	sendWindow int64
	recvWindow int64
	unacked    uint32
	waiting    waitList // streams that could send if the connection's window were open
	unadmitted waitList // streams whose window would be opened if less were under way
	finished   finished
	resets     recentIDs // streams that we have reset
	doomed     []uint32  // streams to reset at the next flush
	held       int       // capacity of all Stream.message, in bytes
	reserved   int       // length of all messages under way that the peer was asked for, in bytes
	occupied   int       // bytes of messages that the owner has in hand
	pending    int       // length of all Stream.pending, in bytes

	peerInitialWindow int64
	peerMaxFrame      uint32
	peerMaxStreams    uint32
	peerMaxHeaderList uint32
	tableShrunk       bool // the peer has once wanted an HPACK table smaller than the default
	shrinkTable       bool // the next header block has to say that we use none

	decoder *hpack.Decoder
	request Request // what was decoded last
	memo    memo

	// A header block that goes on in CONTINUATION frames.
	blockID    uint32
	blockFlags byte
	block      []byte
	blockCount int

	client bool
	nextID uint32 // of the client

	prefaceSeen   bool
	settingsSeen  bool
	settingsAcked bool
	drain         drain
	goneAway      bool   // a GOAWAY with the last stream was sent: further streams are refused
	goAwayID      uint32 // the last stream that GOAWAY named
	peerGone      bool   // GOAWAY received
	closing       bool   // no stream is opened any more
	pingSent      int64
	budget        budget

	account *memory.Account // what the connection holds of Config.Memory
	tight   bool            // it may not hold more: messages are refused
	served  bool            // a message was answered since noteUsage was called
	opened  bool            // streams were opened
	ended   string          // why we end the connection
	usage   usage
}

// owner is the server or client that a connection belongs to.
type owner interface {
	// open decides on a request; the connection is locked.
	open(s *Stream, r *Request) Receiver
	// afterRead is called without the lock when all frames of one read were handled.
	afterRead(c *Conn)
	// now is a monotonic clock, in nanoseconds.
	now() int64
	// run runs a goroutine that takes over.
	run(func())
	// ended is called when the connection has ended.
	ended(c *Conn)
}

// connError ends the connection with GOAWAY (RFC 9113 section 5.4.1).
type connError struct {
	code   ErrCode
	reason string
	label  string // one of the Reasons; empty for ReasonProtocol
}

func (e *connError) Error() string {
	return fmt.Sprintf("h2: connection error %d: %s", e.code, e.reason)
}

func connErr(code ErrCode, reason string) error { return &connError{code: code, reason: reason} }

func newConn(o owner, cfg *Config, nc net.Conn) *Conn {
	c := &Conn{
		owner: o, cfg: cfg, socket: nc, nc: nc,
		streams:           make(map[uint32]*Stream),
		sendWindow:        defaultWindow,
		recvWindow:        int64(max(cfg.ConnWindow, defaultWindow)),
		goAwayID:          maxStreamID,
		peerInitialWindow: defaultWindow,
		peerMaxFrame:      maxFrameSize,
		peerMaxStreams:    maxStreamID,
		peerMaxHeaderList: 1<<32 - 1,
	}
	c.writer.conn = c
	c.account = cfg.Memory.Open(nc.RemoteAddr())
	c.account.Set(connCost)
	c.unadmitted.what = toReceive
	c.lastFrame.Store(o.now())
	c.usage.since.Store(c.lastFrame.Load())
	c.decoder = hpack.NewDecoder(headerTableSize, c.emit)
	c.decoder.SetMaxStringLength(int(cfg.MaxHeaderListSize))
	return c
}

// Lock takes the connection's lock, which guards all of its streams.
func (c *Conn) Lock() { c.mu.Lock() }

// Unlock releases the lock. Flush afterwards what was sent; AfterRead is followed by a flush anyway.
func (c *Conn) Unlock() { c.mu.Unlock() }

// Stream returns the open stream of that identifier, or nil. The connection is locked.
func (c *Conn) Stream(id uint32) *Stream { return c.streams[id] }

// RemoteAddr returns the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.socket.RemoteAddr() }

// input is what the goroutine that reads a connection has read.
type input struct {
	buf  *[]byte
	have int  // bytes in buf
	used int  // bytes of these that were handled
	more bool // further ones are to be handled
	// pooled: buf is one of readBuffers. A connection has a smaller one of its own until its first stream.
	pooled bool
	err    error // of the last read; why it ended, once it is over
	// over: the connection has ended, and linger: after an error of the protocol.
	over, linger bool
}

// errTakenOver is the error of a goroutine that does not read any more: another one does.
var errTakenOver = errors.New("h2: another goroutine reads the connection")

// serve reads the connection until it ends.
func (c *Conn) serve() {
	first := []byte(nil)
	if !c.client {
		first = make([]byte, firstBufferSize) // There may be many connections without streams.
	}
	c.in.buf = &first
	c.serveFrom(c.turn.Load(), false)
}

// HandOver has another goroutine take the place of the one that reads the connection. That one is within Handler.AfterRead, and only has to return from it; the other one calls
// AfterRead again, for what is left to do, and reads on. The caller sees to it that the two do not use the handler's data at the same time.
func (c *Conn) HandOver() {
	turn := c.turn.Add(1)
	c.owner.run(func() { c.serveFrom(turn, true) })
}

// serveFrom reads the connection until it ends or another goroutine takes over. If resumed is true, AfterRead comes first.
func (c *Conn) serveFrom(turn uint32, resumed bool) {
	returned := false
	defer func() {
		if !returned && c.turn.Load() == turn {
			c.deserted(turn)
		}
	}()
	if !c.in.over {
		err := c.readLoop(turn, resumed)
		if err == errTakenOver {
			returned = true
			return
		}
		var ce *connError
		errors.As(err, &ce)
		c.mu.Lock()
		if ce != nil {
			c.sendGoAway(ce.code, ce.reason)
		}
		c.closing = true
		c.resetAll()
		c.mu.Unlock()
		c.in.over, c.in.linger, c.in.err = true, ce != nil, err
	}
	c.afterRead()
	if c.turn.Load() == turn {
		c.Flush()
		c.writer.close(c.in.linger)
		c.end()
	}
	returned = true
}

// end is the last that happens to a connection.
func (c *Conn) end() {
	if c.in.pooled {
		readBuffers.Put(c.in.buf)
	}
	c.in.buf = nil
	c.over(c.in.err)
	c.owner.ended(c)
}

// deserted ends the connection when a receiver or the handler has ended the goroutine that reads it (runtime.Goexit), which can't be stopped: else the peer would wait
// for ever.
func (c *Conn) deserted(turn uint32) {
	c.panicked("the goroutine of a connection was ended")
	for over := false; !over; { // Receivers may do it again when they are told of the end; each is told once.
		told := make(chan struct{})
		go func() {
			defer close(told)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.closing = true
			c.writer.abort()
			c.resetAll()
			over = true
		}()
		<-told
	}
	c.writer.group.Wait()
	if !c.in.over {
		c.in.over, c.in.err = true, nil
	}
	defer func() { // Also when the handler ends the goroutine again.
		if c.turn.Load() == turn {
			c.end()
		}
	}()
	c.afterRead() // What was told of the end may have led to something.
}

func (c *Conn) readLoop(turn uint32, resumed bool) error {
	in := &c.in
	if !resumed {
		if err := c.limitHandshake(); err != nil {
			return err
		}
	}
	for {
		if !resumed {
			if !in.pooled && (c.opened || c.client) { // Only this goroutine changes opened.
				large := readBuffers.Get().(*[]byte)
				in.have = copy(*large, (*in.buf)[:in.have])
				in.buf, in.pooled = large, true
			}
			var n int
			n, in.err = c.read((*in.buf)[in.have:])
			in.have += n
			in.used, in.more = 0, n > 0
		}
		if err := c.handle(turn, resumed); err != nil {
			return err
		}
		resumed = false
		in.have = copy(*in.buf, (*in.buf)[in.used:in.have])
		if in.err != nil {
			return in.err
		}
	}
}

// read waits for bytes of the peer.
func (c *Conn) read(b []byte) (n int, err error) {
	if c.plain == nil {
		return c.nc.Read(b)
	}
	if n, err = c.plain.Read(b); n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

var readBuffers = sync.Pool{New: func() any {
	b := make([]byte, readBufferSize)
	return &b
}}

const (
	// firstBufferSize holds one frame of the largest size.
	firstBufferSize = maxFrameSize + frameHeaderLen
	// readBufferSize holds several frames of the largest size.
	readBufferSize = 128 << 10
	// flushSize is how many bytes of answers gather before they are sent, even within a read, and in one buffer before long messages go into the next.
	flushSize = 256 << 10
)

// limitHandshake sets the time until the peer's SETTINGS: who never speaks HTTP/2 does not keep a connection.
func (c *Conn) limitHandshake() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	timeout := c.cfg.HandshakeTimeout
	if c.drain.wanted {
		timeout = min(timeout, drainGrace)
	}
	return c.nc.SetReadDeadline(time.Now().Add(timeout))
}

// handle handles all whole frames of the input, and sends what they led to. If resumed is true, frames were handled and AfterRead comes first.
func (c *Conn) handle(turn uint32, resumed bool) (err error) {
	in := &c.in
	for in.more || resumed {
		if !resumed {
			var n int
			n, in.more, err = c.step((*in.buf)[in.used:in.have])
			if in.used += n; err != nil {
				return err
			}
		}
		resumed = false
		ok := c.afterRead()
		switch {
		case c.turn.Load() != turn:
			return errTakenOver
		case !ok:
			return connErr(InternalError, "internal error")
		}
		c.Flush()
	}
	return nil
}

// step handles frames under the lock, until there are no more or the answers should be sent. A panic, which can only be a mistake of ours because those of
// receivers are caught closer to them, ends the connection.
func (c *Conn) step(b []byte) (used int, more bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() {
		if v := recover(); v != nil {
			c.panicked(v)
			err = connErr(InternalError, "internal error")
		}
	}()
	if used, more, err = c.frames(b); err != nil {
		return used, false, err
	}
	now := c.owner.now()
	if used > 0 {
		c.lastFrame.Store(now)
	}
	return used, more, c.budget.check(now, c.cfg.MaxConcurrentStreams)
}

// afterRead tells the handler that a read is over. Without the lock it is not known what a panic left undone, so that the connection has to end.
func (c *Conn) afterRead() (ok bool) {
	defer func() {
		if v := recover(); v != nil {
			c.panicked(v)
			ok = false
		}
	}()
	c.owner.afterRead(c)
	return true
}

func (c *Conn) panicked(v any) {
	if c.cfg.Panicked != nil {
		c.cfg.Panicked(v, debug.Stack())
	}
}

// checkIdle sends a PING when the peer is silent, and closes the connection when it stays so.
func (c *Conn) checkIdle(now int64) {
	last := c.lastFrame.Load()
	if now-last < int64(c.cfg.IdlePing) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.settingsSeen || c.closing: // These have deadlines.
	case c.pingSent <= last:
		c.pingSent = now
		c.out = appendPing(c.out, 0, "idle?\x00\x00\x00")
		c.flush()
	case now-c.pingSent > int64(c.cfg.IdlePing):
		c.endFor(ReasonSilent)
		c.writer.abort()
	}
}
