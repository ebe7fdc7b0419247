package workers

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/policy-engine/policy-engine/config"
)

// The states of a breaker, as policy_kernel_worker_breaker_state shows them.
const (
	breakerClosed   int32 = 0
	breakerHalfOpen int32 = 1
	breakerOpen     int32 = 2
)

// maxDoublings is how often the time for which a breaker stays open doubles.
const maxDoublings = 5

// breaker keeps calls from a replica that has left several in a row without an answer in time. After a while one call is tried: its answer closes the breaker, another failure
// opens it for longer. Times are since the worker's epoch. On the way of a call that goes well it costs two atomic loads.
type breaker struct {
	config config.CircuitBreaker
	// changed is called when it is closed no longer (open), and when it is again.
	changed func(open bool)

	failures atomic.Int32 // in a row
	state    atomic.Int32
	// until is when the next call may be tried, unless the breaker is closed.
	until atomic.Int64

	mu     sync.Mutex
	opened int // times in a row
}

// admits reports whether a call may be sent now.
func (b *breaker) admits(now time.Duration) bool {
	// Fast path.
	return b.state.Load() == breakerClosed || int64(now) >= b.until.Load()
}

// admit takes the right to send a call, which is the trial of a breaker that is not closed.
func (b *breaker) admit(now time.Duration) bool {
	// Fast path.
	if b.state.Load() == breakerClosed {
		return true
	}
	until := b.until.Load()
	// If the trial comes to nothing in any other way than a failure, there is another one after the same time.
	if int64(now) < until || !b.until.CompareAndSwap(until, int64(now+b.config.OpenTime)) {
		return false
	}
	b.state.CompareAndSwap(breakerOpen, breakerHalfOpen)
	return true
}

// success notes an answer in time.
func (b *breaker) success() {
	// Fast path.
	if b.failures.Load() == 0 {
		return
	}
	if b.state.Load() == breakerOpen {
		return // The answer is to a call from before. The trial decides.
	}
	b.failures.Store(0)
	b.mu.Lock()
	closed := b.state.CompareAndSwap(breakerHalfOpen, breakerClosed)
	if closed {
		b.opened = 0
	}
	b.mu.Unlock()
	if closed {
		b.changed(false)
	}
}

// failure notes a call without an answer in time.
func (b *breaker) failure(now time.Duration) {
	n := b.failures.Add(1)
	if b.config.ConsecutiveFailures == 0 || b.state.Load() == breakerOpen {
		return
	}
	if b.state.Load() == breakerClosed && int(n) < b.config.ConsecutiveFailures {
		return
	}
	b.mu.Lock()
	before := b.state.Swap(breakerOpen)
	if before != breakerOpen {
		wait := b.config.OpenTime << min(b.opened, maxDoublings)
		b.until.Store(int64(now + wait/2 + rand.N(wait/2+1))) // Jitter keeps many kernels from trying in step.
		b.opened++
	}
	b.mu.Unlock()
	if before == breakerClosed {
		b.changed(true)
	}
}

// reset closes the breaker: another process is behind it.
func (b *breaker) reset() {
	b.mu.Lock()
	b.opened = 0
	b.failures.Store(0)
	was := b.state.Swap(breakerClosed)
	b.mu.Unlock()
	if was != breakerClosed {
		b.changed(false)
	}
}

// breakerName tells a breaker's state in words.
func breakerName(state int32) string {
	return [...]string{"closed", "half-open", "open"}[state]
}
