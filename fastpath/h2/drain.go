package h2

import "time"

// drain is how far the graceful end of a connection is (RFC 9113 section 6.8): first a GOAWAY that names the highest identifier, which asks for no further
// streams but refuses none, with a PING; when its answer has come, all streams that were on their way have, and the second GOAWAY names the last one.
type drain struct {
	wanted    bool
	announced int64 // when the first GOAWAY was sent; 0: not yet
}

const (
	// drainPing is the payload of the PING after the first GOAWAY.
	drainPing = "drain\x00\x00\x00"
	// drainGrace is how long the answer to it may take, and how long a peer may take to speak at all.
	drainGrace = time.Second
)

// beginDrain asks the peer for no further streams. The connection is locked.
func (c *Conn) beginDrain() {
	if c.drain.wanted || c.closing {
		return
	}
	c.drain.wanted = true
	if !c.settingsSeen {
		_ = c.nc.SetReadDeadline(time.Now().Add(drainGrace)) // When it fails the connection is closed already.
		return
	}
	c.announceDrain()
}

func (c *Conn) announceDrain() {
	c.drain.announced = max(c.owner.now(), 1)
	c.out = appendGoAway(c.out, maxStreamID, NoError, "draining")
	c.out = appendPing(c.out, 0, drainPing)
}

// overdueDrain goes on when the PING is not answered. The connection is locked.
func (c *Conn) overdueDrain() {
	if c.drain.announced > 0 && c.owner.now()-c.drain.announced > int64(drainGrace) {
		c.finishDrain()
	}
}

// finishDrain refuses further streams.
func (c *Conn) finishDrain() {
	if c.goneAway {
		return
	}
	c.sendGoAway(NoError, "draining")
	c.closeIfDone()
}

// closeIfDone ends the connection when it takes no further streams and every stream has its answer.
func (c *Conn) closeIfDone() {
	done := c.goneAway && c.active == 0
	if c.client {
		done = c.peerGone && len(c.streams) == 0
	}
	if !done {
		return
	}
	c.closing = true
	c.writer.ending = true // When all is written.
}

// sendGoAway tells the peer which streams were taken; later ones are refused.
func (c *Conn) sendGoAway(code ErrCode, debug string) {
	c.goneAway = true
	if last := c.lastID; !c.client {
		c.goAwayID = min(c.goAwayID, last) // It never grows (RFC 9113 section 6.8).
	} else {
		c.goAwayID = 0 // The peer opens no streams.
	}
	c.out = appendGoAway(c.out, c.goAwayID, code, debug)
}
