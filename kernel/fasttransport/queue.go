package fasttransport

import (
	"github.com/policy-engine/policy-engine/fastpath/h2"
	"github.com/policy-engine/policy-engine/kernel/extproc"
)

// attachment is what we keep for a connection.
type attachment struct {
	batch batch // what the frames of this read led to; only the goroutine that reads touches it
}

// attached returns the attachment of a connection, which is locked.
func attached(c *h2.Conn) *attachment {
	a, ok := c.Attachment.(*attachment)
	if !ok {
		a = &attachment{}
		c.Attachment = a
	}
	return a
}

// queue holds the messages of a stream that wait for the outcome of a call. Envoy sends one message a phase and waits for the answer; only streamed bodies come ahead
// of it, as much of each as Envoy's buffer takes, or in full duplex as the stream's window lets it. They count as bodies do. The lock of the stream's connection guards it.
type queue struct {
	bytes []byte // of the messages, from begin on
	begin int
	ends  []int // in bytes, of the messages from first on
	first int
}

const (
	// maxQueued is the most that one queue may cost, in bytes, and maxAllQueued that all may where the server is given no budget.
	maxQueued    = 4 << 20
	maxAllQueued = 32 << 20
	// pausedAt is the cost from which on the peer is not asked for more: in full duplex, Envoy sends as fast as it can, and waits for no answer.
	pausedAt = 128 << 10
	// queuedCost is what a message costs besides its bytes: there are empty ones.
	queuedCost = 64
	// maxKept is the largest queue that a stream keeps for its next use, in bytes.
	maxKept = 64 << 10
)

func (q *queue) cost() int { return len(q.bytes) - q.begin + (len(q.ends)-q.first)*queuedCost }

// add copies a message to the end, unless the queue, or all of them, would cost too much.
func (q *queue) add(b *extproc.Budget, msg []byte) bool {
	cost := len(msg) + queuedCost
	if q.cost()+cost > maxQueued || !b.Take(cost) {
		return false
	}
	if q.begin > len(q.bytes)/2 {
		q.compact()
	}
	q.bytes = append(q.bytes, msg...)
	q.ends = append(q.ends, len(q.bytes))
	return true
}

// compact moves the messages that wait to the front.
func (q *queue) compact() {
	q.bytes = q.bytes[:copy(q.bytes, q.bytes[q.begin:])]
	q.ends = q.ends[:copy(q.ends, q.ends[q.first:])]
	for i := range q.ends {
		q.ends[i] -= q.begin
	}
	q.begin, q.first = 0, 0
}

// next takes the first message out. It is valid until the next call of add.
func (q *queue) next(b *extproc.Budget) (msg []byte, ok bool) {
	if q.first == len(q.ends) {
		return nil, false
	}
	msg = q.bytes[q.begin:q.ends[q.first]]
	q.begin = q.ends[q.first]
	q.first++
	b.Give(len(msg) + queuedCost)
	if q.first == len(q.ends) {
		q.bytes, q.begin, q.ends, q.first = q.bytes[:0], 0, q.ends[:0], 0
	}
	return msg, true
}

// drop forgets all messages, and their memory where it is much.
func (q *queue) drop(b *extproc.Budget) {
	// Fast path: nothing waits, as a rule.
	if cost := q.cost(); cost > 0 {
		b.Give(cost)
	}
	q.bytes, q.begin, q.ends, q.first = q.bytes[:0], 0, q.ends[:0], 0
	if cap(q.bytes) > maxKept {
		q.bytes = nil
	}
	if cap(q.ends) > maxKept/queuedCost {
		q.ends = nil
	}
}
