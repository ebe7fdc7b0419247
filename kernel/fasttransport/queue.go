package fasttransport

import (
	"github.com/policy-engine/policy-engine/fastpath/h2"
	"github.com/policy-engine/policy-engine/fastpath/lane"
	"github.com/policy-engine/policy-engine/kernel/extproc"
)

// attachment is what we keep for a connection.
type attachment struct {
	// The goroutine that reads the connection uses these.
	server  *Server
	conn    *h2.Conn
	batch   batch      // what the frames of this read led to
	outcome *outcome   // whose calls are being started; may be nil
	lane    *lane.Lane // that goroutine; nil until an evaluator needs it
}

// ownLane implements host.
func (a *attachment) ownLane() *lane.Lane {
	if a.lane == nil {
		a.lane = a.server.watch().Lane(a)
	}
	a.lane.Enter()
	return a.lane
}

// TakeOver implements lane.Owner: another goroutine starts the rest, and reads on.
func (a *attachment) TakeOver(*lane.Lane) {
	if a.outcome != nil {
		a.server.putBack(a.outcome)
		a.outcome = nil
	}
	a.lane = a.server.watch().Lane(a)
	a.conn.HandOver()
}

// attached returns the attachment of a connection, which is locked.
func (s *Server) attached(c *h2.Conn) *attachment {
	a, ok := c.Attachment.(*attachment)
	if !ok {
		a = &attachment{server: s, conn: c}
		c.Attachment = a
	}
	return a
}

// queue holds the messages of a stream that wait for the outcome of a call. Envoy sends one message a phase and waits for the answer; only streamed bodies come ahead
// of it, as much of each as Envoy's buffer takes, or in full duplex as the stream's window lets it. They count as bodies do. The lock of the stream's connection guards it.
type queue struct {
	waiting []waiting // from first on
	first   int
	bytes   []byte // of the messages that were copied, from begin on
	begin   int
	taken   int // bytes of the messages that were taken
}

// waiting is one message: its own memory, or so many of the queue's bytes.
type waiting struct {
	taken h2.Buffer
	size  int
}

const (
	// maxQueued is the most that one queue may cost, in bytes, and maxAllQueued that all may where the server is given no budget.
	maxQueued    = 4 << 20
	maxAllQueued = 32 << 20
	// pausedAt is the cost from which on the peer is not asked for more: in full duplex, Envoy sends as fast as it can, and waits for no answer.
	pausedAt = 64 << 10
	// queuedCost is what a message costs besides its bytes: there are empty ones.
	queuedCost = 64
	// maxKept is the largest queue that a stream keeps for its next use, in bytes.
	maxKept = 64 << 10
)

func (q *queue) cost() int {
	return q.size() + (len(q.waiting)-q.first)*queuedCost
}

// size is how many bytes the messages have.
func (q *queue) size() int { return len(q.bytes) - q.begin + q.taken }

// add takes a message that is being delivered to the end, or copies it, unless the queue, or all of them, would cost too much.
func (q *queue) add(b *extproc.Budget, hs *h2.Stream, msg []byte) bool {
	cost := len(msg) + queuedCost
	if q.cost()+cost > maxQueued || !b.Take(cost) {
		return false
	}
	if q.first > len(q.waiting)/2 {
		q.compact()
	}
	w := waiting{size: len(msg)}
	if hs.Take(&w.taken) {
		q.taken += w.size
	} else {
		q.bytes = append(q.bytes, msg...)
	}
	q.waiting = append(q.waiting, w)
	return true
}

// compact moves what waits to the front.
func (q *queue) compact() {
	n := copy(q.waiting, q.waiting[q.first:])
	clear(q.waiting[n:])
	q.waiting, q.first = q.waiting[:n], 0
	q.bytes, q.begin = q.bytes[:copy(q.bytes, q.bytes[q.begin:])], 0
}

// next takes the first message out. If it has memory of its own, that is now lent's, which is to be free. Else msg is valid until the next call of add.
func (q *queue) next(b *extproc.Budget, lent *h2.Buffer) (msg []byte, isLent, ok bool) {
	if q.first == len(q.waiting) {
		return nil, false, false
	}
	w := &q.waiting[q.first]
	q.first++
	b.Give(w.size + queuedCost)
	if isLent = w.taken.Cap() > 0; isLent {
		q.taken -= w.size
		*lent, w.taken = w.taken, h2.Buffer{}
	} else {
		msg = q.bytes[q.begin : q.begin+w.size]
		q.begin += w.size
	}
	if q.first == len(q.waiting) {
		q.waiting, q.first, q.bytes, q.begin = q.waiting[:0], 0, q.bytes[:0], 0
	}
	return msg, isLent, true
}

// drop forgets all messages, and their memory where it is much.
func (q *queue) drop(b *extproc.Budget) {
	// Fast path: nothing waits, and nothing has, as a rule.
	if cost := q.cost(); cost > 0 {
		b.Give(cost)
	}
	for i := q.first; i < len(q.waiting); i++ {
		q.waiting[i].taken.Free()
	}
	if cap(q.waiting) > 0 {
		clear(q.waiting[:cap(q.waiting)])
	}
	*q = queue{waiting: q.waiting[:0], bytes: q.bytes[:0]}
	if cap(q.bytes) > maxKept {
		q.bytes = nil
	}
	if cap(q.waiting) > maxKept/queuedCost {
		q.waiting = nil
	}
}
