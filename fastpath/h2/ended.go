package h2

import (
	"errors"
	"os"
	"sync/atomic"
	"time"
)

// Reasons for which a server ends a connection.
const (
	ReasonHandshake   = "handshake"   // neither TLS nor the preface with its SETTINGS came in time, or TLS failed
	ReasonSilent      = "silent"      // no answer to a PING
	ReasonResets      = "reset_flood" // too many streams that ended before their answer (CVE-2023-44487)
	ReasonSettings    = "settings_flood"
	ReasonPings       = "ping_flood"
	ReasonControl     = "control_flood" // other control frames, or empty ones
	ReasonWindows     = "window_flood"  // WINDOW_UPDATE
	ReasonHeaders     = "header_list_too_large"
	ReasonUnread      = "answers_not_read"
	ReasonProtocol    = "protocol_error" // anything else that RFC 9113 forbids
	ReasonInternal    = "internal"
	ReasonConnections = "too_many_connections"
)

// Reasons lists them.
var Reasons = []string{
	ReasonHandshake, ReasonSilent, ReasonResets, ReasonSettings, ReasonPings, ReasonControl, ReasonWindows, ReasonHeaders, ReasonUnread, ReasonProtocol, ReasonInternal, ReasonConnections,
}

// flood ends the connection because of what the peer sends too much of.
func flood(reason, label string) error { return &connError{EnhanceYourCalm, reason, label} }

// endFor notes why we end the connection; the first reason counts. The connection is locked.
func (c *Conn) endFor(reason string) {
	if c.ended == "" {
		c.ended = reason
	}
}

// over gives back what the connection holds, and reports why it has ended, if we ended it.
func (c *Conn) over(err error) {
	c.mu.Lock()
	c.account.Close()
	c.account = nil
	reason := c.ended
	c.mu.Unlock()
	var ce *connError
	switch {
	case reason != "":
	case errors.As(err, &ce) && ce.label != "":
		reason = ce.label
	case ce != nil && ce.code == InternalError:
		reason = ReasonInternal
	case ce != nil:
		reason = ReasonProtocol
	case errors.Is(err, os.ErrDeadlineExceeded) && !c.settingsSeen && !c.drain.wanted:
		reason = ReasonHandshake
	default:
		return // The peer has ended it.
	}
	c.reportEnd(reason)
}

func (c *Conn) reportEnd(reason string) {
	if c.cfg.Ended != nil && !c.client {
		c.cfg.Ended(reason, c.socket.RemoteAddr())
	}
}

const (
	// connCost is what a connection costs without streams, in bytes: a goroutine, buffers, tables.
	connCost = 32 << 10
	// readCost is what it costs more from its first stream on: the read buffer, and what the memo keeps.
	readCost = readBufferSize + 32<<10
	// streamCost is what a stream costs besides its messages, with its owner's state.
	streamCost = 4 << 10
	// finishedCost is what a stream costs that we have ended and the peer has not.
	finishedCost = 512
)

// cost is what the connection holds, in bytes.
func (c *Conn) cost() int {
	n := connCost + c.active*streamCost + (len(c.streams)-c.active)*finishedCost + c.held + c.occupied + c.pending + c.writer.size + cap(c.out) + len(c.block)
	if c.opened {
		n += readCost
	}
	return n
}

// charge brings the account of the connection up to date. The connection is locked.
func (c *Conn) charge() {
	if c.account != nil {
		c.tight = !c.account.Set(c.cost())
	}
}

// affords reports whether the connection may hold n bytes more.
func (c *Conn) affords(n int) bool {
	return c.account == nil || c.account.Grow(c.cost()+n)
}

// exhausted is called for each stream and message that is refused because memory is used up.
func (c *Conn) exhausted() {
	if c.cfg.Refused != nil && !c.client {
		c.cfg.Refused()
	}
}

const noMemory = "the memory for all connections is used up"

// usage is what of a connection decides whether it may be closed to make room for another one. It is read without the lock.
type usage struct {
	active, served atomic.Bool
	since          atomic.Int64 // when it became active or idle, or was answered last: owner's clock, in nanoseconds
}

// noteUsage follows the streams of the connection, which is locked.
func (c *Conn) noteUsage() {
	// Fast path: nothing has changed.
	if active := c.active > 0; active != c.usage.active.Load() {
		c.usage.active.Store(active)
		c.usage.since.Store(c.lastFrame.Load())
	}
	if c.served {
		c.served = false
		c.usage.since.Store(c.lastFrame.Load())
		if !c.usage.served.Load() {
			c.usage.served.Store(true)
		}
	}
}

// Tracked is a net.Conn whose listener may close it to make room for another one, and wants to know how much it is used: whether streams are open, whether a message was ever answered, and since
// when there are no streams, or nothing was answered.
type Tracked interface {
	Track(usage func() (active, served bool, since time.Time))
}

func (s *Server) track(c *Conn) {
	if t, ok := c.socket.(Tracked); ok {
		t.Track(func() (active, served bool, since time.Time) {
			return c.usage.active.Load(), c.usage.served.Load(), s.start.Add(time.Duration(c.usage.since.Load()))
		})
	}
}
