package h2

// waitList holds streams that wait for something, first come first served.
type waitList struct {
	first, last *Stream
	what        waitFor
}

// waitFor is what a stream waits for; it may wait for each at a time.
type waitFor uint8

const (
	toSend    waitFor = iota // the connection's window
	toReceive                // leave to open the stream's window: Conn.admits
	waitKinds
)

// link is a stream's place in a waitList.
type link struct {
	before, after *Stream
	in            bool
}

func (l *waitList) add(s *Stream) {
	at := &s.links[l.what]
	if at.in {
		return
	}
	*at = link{before: l.last, in: true}
	if l.last == nil {
		l.first = s
	} else {
		l.last.links[l.what].after = s
	}
	l.last = s
}

func (l *waitList) has(s *Stream) bool { return s.links[l.what].in }

func (l *waitList) remove(s *Stream) {
	at := &s.links[l.what]
	if !at.in {
		return
	}
	if at.before == nil {
		l.first = at.after
	} else {
		at.before.links[l.what].after = at.after
	}
	if at.after == nil {
		l.last = at.before
	} else {
		at.after.links[l.what].before = at.before
	}
	*at = link{}
}

// drainWaiting gives a larger window of the connection to the streams in turn.
func (c *Conn) drainWaiting() {
	for c.waiting.first != nil && c.sendWindow > 0 {
		s := c.waiting.first
		c.waiting.remove(s)
		s.drain()
	}
}

// maxFinished is how many answered streams a connection keeps for the peer to close its side: at most half of those that
// may be open, because they count too (RFC 9113 section 5.1.2). In a burst, an Envoy whose thread is busy resets thousands
// of them only later: each one that is not kept costs a frame that it does not need.
const maxFinished = 4096

// finished are the streams that we have ended and the peer has not, in order of their end. An honest peer closes its side or resets the stream at once; for one that
// does not the stream is reset when as many others have followed, without an error (RFC 9113 section 8.1).
type finished struct {
	ids  []uint32
	next int
}

func (c *Conn) keepFinished(s *Stream) {
	f, limit := &c.finished, int(min(maxFinished, c.cfg.MaxConcurrentStreams/2))
	old := s.id // Of a single stream none is kept.
	if limit > 0 {
		if len(f.ids) < limit {
			f.ids = append(f.ids, s.id)
			return
		}
		old, f.ids[f.next] = f.ids[f.next], s.id
		f.next = (f.next + 1) % limit
	}
	if o := c.streams[old]; o != nil {
		c.out = appendRSTStream(c.out, old, NoError)
		c.resets.add(old)
		c.budget.owed++
		c.remove(o)
	}
}

// recentIDs are a few identifiers, the latest ones.
type recentIDs struct {
	ids  [64]uint32
	next int
}

func (r *recentIDs) add(id uint32) {
	r.ids[r.next] = id
	r.next = (r.next + 1) % len(r.ids)
}

func (r *recentIDs) has(id uint32) bool {
	for _, other := range r.ids {
		if other == id {
			return true
		}
	}
	return false
}
