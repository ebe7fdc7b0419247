package ratelimit

import "math/bits"

// rate is how fast a bucket fills, and how much fits in. The algorithm is GCRA (ITU-T I.371): a bucket is one point in time, its theoretical
// arrival time (TAT), at which it will be full again. Each unit that is taken moves it per/requests into the future; what would move it further than a full bucket
// reaches is refused.
//
// All arithmetic is exact: per/requests is seldom a whole number of nanoseconds, so a moment has a fraction.
type rate struct {
	requests int64 // units per per
	per      int64 // ns
	burst    int64 // units
	cost     int64 // units per request
	step     moment
	full     moment // the time in which an empty bucket fills up
}

// moment is a time, or a point in time, of ns nanoseconds and frac/requests more; 0 <= frac < requests.
type moment struct {
	ns   int64
	frac int64
}

// newRate returns a rate, or false if it fills up so slowly that times could overflow.
func newRate(requests, per, burst, cost int64) (rate, bool) {
	r := rate{requests: requests, per: per, burst: burst, cost: cost}
	var ok bool
	if r.full, ok = r.span(burst); !ok {
		return rate{}, false
	}
	r.step, ok = r.span(cost)
	return r, ok
}

// span returns the time in which n units flow in, or false if it is longer than maxFull.
func (r *rate) span(n int64) (moment, bool) {
	hi, lo := bits.Mul64(uint64(n), uint64(r.per))
	if hi >= uint64(r.requests) {
		return moment{}, false
	}
	ns, frac := bits.Div64(hi, lo, uint64(r.requests))
	return moment{int64(ns), int64(frac)}, ns <= maxFull
}

// units returns how many whole units flow in in the time m, which is at most full.
func (r *rate) units(m moment) int64 {
	hi, lo := bits.Mul64(uint64(m.ns), uint64(r.requests))
	lo, carry := bits.Add64(lo, uint64(m.frac), 0)
	n, _ := bits.Div64(hi+carry, lo, uint64(r.per)) // At most burst, so there is no overflow.
	return int64(n)
}

func (r *rate) add(a, b moment) moment {
	sum := moment{a.ns + b.ns, a.frac + b.frac}
	if sum.frac >= r.requests {
		sum.ns++
		sum.frac -= r.requests
	}
	return sum
}

// sub returns a - b; b is not after a.
func (r *rate) sub(a, b moment) moment {
	difference := moment{a.ns - b.ns, a.frac - b.frac}
	if difference.frac < 0 {
		difference.ns--
		difference.frac += r.requests
	}
	return difference
}

func (a moment) after(b moment) bool {
	return a.ns > b.ns || a.ns == b.ns && a.frac > b.frac
}

// ceil rounds up to whole nanoseconds.
func (a moment) ceil() int64 {
	if a.frac > 0 {
		return a.ns + 1
	}
	return a.ns
}

// decision is what became of a request. Times are in ns, rounded up.
type decision struct {
	allowed    bool
	remaining  int64 // whole units that are left
	resetAfter int64 // until the bucket is full
	retryAfter int64 // until the request would be admitted; 0 if it was, -1 if it never will be
	shared     bool  // the bucket is not the client's own
}

// decide takes step from the bucket at the point in time now, in ns from any start, at most latestNow. It returns the bucket as it is after that.
func (r *rate) decide(tat moment, now int64, step moment) (moment, decision) {
	start := moment{ns: now}
	if start.after(tat) {
		tat = start
	}
	limit := r.add(start, r.full)
	next := r.add(tat, step)
	if next.after(limit) {
		d := decision{remaining: r.left(tat, limit), resetAfter: r.sub(tat, start).ceil(), retryAfter: -1}
		if !step.after(r.full) {
			d.retryAfter = r.sub(next, limit).ceil()
		}
		return tat, d
	}
	return next, decision{allowed: true, remaining: r.left(next, limit), resetAfter: r.sub(next, start).ceil()}
}

// left is what can be taken from the bucket; a TAT after limit, made by a clock that went backwards, leaves nothing.
func (r *rate) left(tat, limit moment) int64 {
	if tat.after(limit) {
		return 0
	}
	return r.units(r.sub(limit, tat))
}

// latestNow keeps the sums of decide from overflowing, with any rate.
const latestNow = 1 << 62
