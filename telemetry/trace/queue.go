package trace

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxSpan is how long a span may be, in bytes. A longer one, which only a policy can make, is lost.
	maxSpan = 64 << 10
	// maxBatch is how many spans go to the receiver together, at most, and maxBatchSize how many bytes at about which a batch is full: receivers take 4 MiB.
	maxBatch     = 1024
	maxBatchSize = 1 << 20
	// batchDelay is how long a span waits for others, at most.
	batchDelay = 5 * time.Second
)

// batch is spans in a row, each as a field of ScopeSpans.
type batch struct {
	spans int
	bytes []byte
	// buffers has bytes back when they are sent.
	buffers *buffers
}

// buffers keeps one buffer that was sent for the next batch. It is gRPC's pool, which knows when nobody reads a message any more.
type buffers struct{ spare atomic.Pointer[[]byte] }

// Get implements mem.BufferPool.
func (b *buffers) Get(n int) *[]byte {
	if p := b.spare.Swap(nil); p != nil && cap(*p) >= n {
		*p = (*p)[:n]
		return p
	}
	fresh := make([]byte, n)
	return &fresh
}

// Put implements mem.BufferPool.
func (b *buffers) Put(p *[]byte) { b.spare.Store(p) }

// exporter sends a batch. It returns how many of the spans did not arrive, and an error if there are any.
type exporter interface {
	export(ctx context.Context, b *batch) (lost int, err error)
}

// queue has the spans that wait for the receiver, bounds and counts them. A goroutine sends them: once in a batchDelay, or when a batch is full. A span that is added wakes
// nobody else.
type queue struct {
	exporter exporter
	max      int
	batch    int // spans of a full batch: fewer than maxBatch if few may wait
	timeout  time.Duration
	failed   func(int, error)

	sending context.Context // It ends when there is no more time to send.
	stop    context.CancelFunc
	wake    chan struct{} // a batch is full, or the queue is closed
	done    chan struct{} // closed when nothing waits any more, after close

	mu         sync.Mutex
	buffers    buffers
	batches    []*batch // The last one grows.
	waiting    int      // spans, with those that are being sent
	closed     bool
	made, lost uint64
}

func newQueue(e exporter, o Options) *queue {
	q := &queue{exporter: e, max: o.QueueSize, batch: min(maxBatch, max(1, o.QueueSize/2)), timeout: o.Timeout, failed: o.Failed, wake: make(chan struct{}, 1), done: make(chan struct{})}
	if q.failed == nil {
		q.failed = func(int, error) {}
	}
	q.sending, q.stop = context.WithCancel(context.Background())
	go q.run()
	return q
}

// add adds a span, which the caller has locked. It does not block.
func (q *queue) add(s *Span, end time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.made++
	if q.waiting >= q.max || q.closed {
		q.lost++
		return
	}
	b := q.last()
	before := len(b.bytes)
	if b.bytes = appendSpan(b.bytes, s, end); len(b.bytes)-before > maxSpan {
		b.bytes = b.bytes[:before]
		q.lost++
		return
	}
	q.waiting++
	if b.spans++; q.full(b) {
		q.rouse()
	}
}

func (q *queue) full(b *batch) bool { return b.spans >= q.batch || len(b.bytes) >= maxBatchSize }

// last is the batch that grows. The caller holds the lock.
func (q *queue) last() *batch {
	n := len(q.batches)
	if n > 0 && !q.full(q.batches[n-1]) {
		return q.batches[n-1]
	}
	b := &batch{bytes: *q.buffers.Get(0), buffers: &q.buffers}
	q.batches = append(q.batches, b)
	return b
}

func (q *queue) rouse() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take takes the oldest batch; nil if there is none. ended: there will be none.
func (q *queue) take() (b *batch, ended bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.batches) == 0 || q.batches[0].spans == 0 {
		return nil, q.closed
	}
	b = q.batches[0]
	q.batches = append(q.batches[:0], q.batches[1:]...)
	return b, false
}

func (q *queue) run() {
	defer close(q.done)
	ticker := time.NewTicker(batchDelay)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-q.wake:
		}
		for {
			b, ended := q.take()
			if ended {
				return
			}
			if b == nil {
				break
			}
			q.send(b)
		}
	}
}

func (q *queue) send(b *batch) {
	ctx, cancel := context.WithTimeout(q.sending, q.timeout)
	defer cancel()
	lost, err := q.exporter.export(ctx, b)
	q.mu.Lock()
	q.waiting -= b.spans
	q.lost += uint64(lost)
	q.mu.Unlock()
	if err != nil && q.sending.Err() == nil {
		q.failed(lost, err)
	}
}

// counts are those of the spans that were made, and that were lost.
func (q *queue) counts() (made, lost uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.made, q.lost
}

// close takes no more spans, and sends what waits until ctx ends; what is left then is lost. late: there is such. It may be called twice.
func (q *queue) close(ctx context.Context) (late bool) {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.rouse()
	select {
	case <-q.done:
	case <-ctx.Done():
		late = true
	}
	q.stop() // A receiver that hangs is left.
	<-q.done
	return late
}
