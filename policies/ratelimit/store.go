package ratelimit

import (
	"sync"
	"sync/atomic"
	"time"
)

// The bounds of the store. A bucket takes about 100 bytes with the room that maps leave.
const (
	numShards   = 64
	maxPerShard = 1 << 14 // 2^20 buckets in all, about 100 MB
	maxPerPlace = 1 << 18

	// minSweep is the number of buckets in a shard below which the dead ones do no harm.
	minSweep = 64
	// sweepPause lies between two sweeps of a shard, so that a client who makes up keys can't make us sweep for each of them.
	sweepPause = time.Second
)

// bucketKey is a digest of the place and the client. It is cut from SHA-256, so that nobody can find a client name that shares another one's bucket.
type bucketKey [16]byte

// store holds the buckets of all places of a worker. It is bounded, and nobody can push another one's bucket out of it: a bucket is dropped only when it
// is full, and so the same as none. When there is no room for a new client, all new clients of the place share one bucket
// until there is: the limit holds, and clients that have a bucket notice nothing.
type store struct {
	start       time.Time
	maxPerShard int
	maxPerPlace int64
	shards      [numShards]shard
}

type shard struct {
	mu      sync.Mutex
	buckets map[bucketKey]bucket
	// latest is the latest time that was seen, in ns since store.start: time does not go backwards.
	latest int64
	// sweepAt is the number of buckets at which dead ones are looked for, nextSweep the time, in ns since store.start, before which they are not.
	sweepAt   int
	nextSweep int64
	_         [64]byte // Shards don't share cache lines.
}

type bucket struct {
	tat     moment
	account *account
}

// account is what a place holds of the store.
type account struct {
	buckets atomic.Int64

	mu       sync.Mutex
	overflow moment // the bucket of all clients for which there was no room
	latest   int64
}

// Close implements io.Closer. The buckets die by themselves.
func (*account) Close() error { return nil }

func newStore(start time.Time, maxPerShard int, maxPerPlace int64) *store {
	return &store{start: start, maxPerShard: maxPerShard, maxPerPlace: maxPerPlace}
}

// Close implements io.Closer.
func (*store) Close() error { return nil }

// take takes the cost of a request from a bucket. It does not allocate for a client that is known.
func (s *store) take(k bucketKey, a *account, r *rate, at time.Time) decision {
	now := min(max(0, int64(at.Sub(s.start))), latestNow)
	sh := &s.shards[k[0]%numShards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.latest = max(sh.latest, now)
	b, known := sh.buckets[k]
	if !known {
		if !s.room(sh, a) {
			return a.take(r, sh.latest)
		}
		b.account = a
		a.buckets.Add(1)
	}
	var d decision
	b.tat, d = r.decide(b.tat, sh.latest, r.step)
	if d.allowed {
		sh.buckets[k] = b // A new bucket always has room for a request: cost is at most burst.
	}
	return d
}

// room reports whether a bucket can be added to sh, and makes room if it can.
func (s *store) room(sh *shard, a *account) bool {
	full := len(sh.buckets) >= s.maxPerShard || a.buckets.Load() >= s.maxPerPlace
	if (full || len(sh.buckets) >= max(sh.sweepAt, minSweep)) && sh.latest >= sh.nextSweep {
		sh.sweep()
	}
	if sh.buckets == nil {
		sh.buckets = make(map[bucketKey]bucket)
	}
	return len(sh.buckets) < s.maxPerShard && a.buckets.Load() < s.maxPerPlace
}

// sweep drops the buckets that are full. Maps never shrink, so the living move to a new one.
func (sh *shard) sweep() {
	sh.nextSweep = sh.latest + int64(sweepPause)
	living := 0
	for _, b := range sh.buckets {
		if b.tat.ns >= sh.latest {
			living++
		}
	}
	sh.sweepAt = 2 * living
	if living == len(sh.buckets) {
		return
	}
	kept := make(map[bucketKey]bucket, living)
	for k, b := range sh.buckets {
		if b.tat.ns >= sh.latest {
			kept[k] = b
		} else {
			b.account.buckets.Add(-1)
		}
	}
	sh.buckets = kept
}

// take takes the cost of a request from the bucket of those for whom there is no room.
func (a *account) take(r *rate, now int64) decision {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.latest = max(a.latest, now)
	var d decision
	a.overflow, d = r.decide(a.overflow, a.latest, r.step)
	d.shared = true
	return d
}
