package bucket

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

// Key names a bucket: a digest of the place and the client. It is cut from SHA-256, so that nobody can find a client name that shares another one's bucket.
type Key [16]byte

// Store holds the buckets of all places of a worker. It is bounded, and nobody can push another one's bucket out of it: a bucket is dropped only when it
// is full, and so the same as none. When there is no room for a new client, all new clients of the place share one bucket
// until there is: the limit holds, and clients that have a bucket notice nothing.
type Store struct {
	start       time.Time
	maxPerShard int
	maxPerPlace int64
	shards      [numShards]shard
	accounts    sync.Map // of *Account by Key
}

type shard struct {
	mu      sync.Mutex
	buckets map[Key]bucket
	// latest is the latest time that was seen, in ns since Store.start: time does not go backwards.
	latest int64
	// sweepAt is the number of buckets at which dead ones are looked for, nextSweep the time, in ns since Store.start, before which they are not.
	sweepAt   int
	nextSweep int64
	_         [64]byte // Shards don't share cache lines.
}

type bucket struct {
	tat     moment
	account *Account
}

// Account is what a place holds of the store.
type Account struct {
	buckets atomic.Int64

	mu       sync.Mutex
	overflow moment // the bucket of all clients for which there was no room
	latest   int64
}

// Close implements io.Closer. The buckets die by themselves.
func (*Account) Close() error { return nil }

// NewStore returns an empty store; start is the present.
func NewStore(start time.Time) *Store { return newStore(start, maxPerShard, maxPerPlace) }

func newStore(start time.Time, maxPerShard int, maxPerPlace int64) *Store {
	return &Store{start: start, maxPerShard: maxPerShard, maxPerPlace: maxPerPlace}
}

// Close implements io.Closer.
func (*Store) Close() error { return nil }

// Take takes the cost of a request from a bucket. It does not allocate for a client that is known.
func (s *Store) Take(k Key, a *Account, r *Rate, at time.Time) Decision {
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
	var d Decision
	b.tat, d = r.decide(b.tat, sh.latest, r.step)
	if d.Allowed {
		sh.buckets[k] = b // A new bucket always has room for a request: cost is at most burst.
	}
	return d
}

// Charge takes units from a bucket, whatever is in it, or gives them back if they are negative; see Rate.
func (s *Store) Charge(k Key, a *Account, r *Rate, units int64, at time.Time) {
	now := min(max(0, int64(at.Sub(s.start))), latestNow)
	sh := &s.shards[k[0]%numShards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.latest = max(sh.latest, now)
	b, known := sh.buckets[k]
	switch {
	case !known && units <= 0: // It is full.
		return
	case !known && !s.room(sh, a):
		a.charge(r, sh.latest, units)
		return
	case !known:
		b.account = a
		a.buckets.Add(1)
	}
	b.tat = r.charge(b.tat, sh.latest, units)
	sh.buckets[k] = b
}

// Account returns the account of that name: the same for all who ask. It lives as long as the store.
func (s *Store) Account(name Key) *Account {
	a, _ := s.accounts.LoadOrStore(name, &Account{})
	return a.(*Account)
}

// room reports whether a bucket can be added to sh, and makes room if it can.
func (s *Store) room(sh *shard, a *Account) bool {
	full := len(sh.buckets) >= s.maxPerShard || a.buckets.Load() >= s.maxPerPlace
	if (full || len(sh.buckets) >= max(sh.sweepAt, minSweep)) && sh.latest >= sh.nextSweep {
		sh.sweep()
	}
	if sh.buckets == nil {
		sh.buckets = make(map[Key]bucket)
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
	kept := make(map[Key]bucket, living)
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
func (a *Account) take(r *Rate, now int64) Decision {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.latest = max(a.latest, now)
	var d Decision
	a.overflow, d = r.decide(a.overflow, a.latest, r.step)
	d.Shared = true
	return d
}

// charge takes units from the bucket of those for whom there is no room.
func (a *Account) charge(r *Rate, now, units int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.latest = max(a.latest, now)
	a.overflow = r.charge(a.overflow, a.latest, units)
}
