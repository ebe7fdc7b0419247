// Package bucket limits what clients take of something: a bucket for each, which fills evenly, in bounded memory.
package bucket

import (
	"math"
	"math/bits"
	"time"
)

// Rate is how fast a bucket fills, and how much fits in. The algorithm is GCRA (ITU-T I.371): a bucket is one point in time, its theoretical
// arrival time (TAT), at which it will be full again. Each unit that is taken moves it per/requests into the future; what would move it further than a full bucket
// reaches is refused.
//
// All arithmetic is exact: per/requests is seldom a whole number of nanoseconds, so a moment has a fraction.
type Rate struct {
	Requests int64 // units per Per
	Per      int64 // ns
	Burst    int64 // units
	Cost     int64 // units per request
	step     moment
	full     moment // the time in which an empty bucket fills up
}

// moment is a time, or a point in time, of ns nanoseconds and frac/requests more; 0 <= frac < requests.
type moment struct {
	ns   int64
	frac int64
}

// NewRate returns a rate, or false if it fills up so slowly that times could overflow.
func NewRate(requests, per, burst, cost int64) (Rate, bool) {
	r := Rate{Requests: requests, Per: per, Burst: burst, Cost: cost}
	var ok bool
	if r.full, ok = r.span(burst); !ok {
		return Rate{}, false
	}
	r.step, ok = r.span(cost)
	return r, ok
}

// span returns the time in which n units flow in, or false if it is longer than maxFull.
func (r *Rate) span(n int64) (moment, bool) {
	hi, lo := bits.Mul64(uint64(n), uint64(r.Per))
	if hi >= uint64(r.Requests) {
		return moment{}, false
	}
	ns, frac := bits.Div64(hi, lo, uint64(r.Requests))
	return moment{int64(ns), int64(frac)}, ns <= maxFull
}

// units returns how many whole units flow in in the time m, which is at most full.
func (r *Rate) units(m moment) int64 {
	hi, lo := bits.Mul64(uint64(m.ns), uint64(r.Requests))
	lo, carry := bits.Add64(lo, uint64(m.frac), 0)
	n, _ := bits.Div64(hi+carry, lo, uint64(r.Per)) // At most burst, so there is no overflow.
	return int64(n)
}

func (r *Rate) add(a, b moment) moment {
	sum := moment{a.ns + b.ns, a.frac + b.frac}
	if sum.frac >= r.Requests {
		sum.ns++
		sum.frac -= r.Requests
	}
	return sum
}

// sub returns a - b; b is not after a.
func (r *Rate) sub(a, b moment) moment {
	difference := moment{a.ns - b.ns, a.frac - b.frac}
	if difference.frac < 0 {
		difference.ns--
		difference.frac += r.Requests
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

// Decision is what became of a request. Times are in ns, rounded up.
type Decision struct {
	Allowed    bool
	Remaining  int64 // whole units that are left
	ResetAfter int64 // until the bucket is full
	RetryAfter int64 // until the request would be admitted; 0 if it was, -1 if it never will be
	Shared     bool  // the bucket is not the client's own
}

// decide takes step from the bucket at the point in time now, in ns from any start, at most latestNow. It returns the bucket as it is after that.
func (r *Rate) decide(tat moment, now int64, step moment) (moment, Decision) {
	start := moment{ns: now}
	if start.after(tat) {
		tat = start
	}
	limit := r.add(start, r.full)
	next := r.add(tat, step)
	if next.after(limit) {
		d := Decision{Remaining: r.left(tat, limit), ResetAfter: r.sub(tat, start).ceil(), RetryAfter: -1}
		if !step.after(r.full) {
			d.RetryAfter = r.sub(next, limit).ceil()
		}
		return tat, d
	}
	return next, Decision{Allowed: true, Remaining: r.left(next, limit), ResetAfter: r.sub(next, start).ceil()}
}

// charge takes units from the bucket, or gives them back if there are less than none of them, whatever is in it. What is not in it is owed: the bucket has to fill by that much before anything can be
// taken.
func (r *Rate) charge(tat moment, now, units int64) moment {
	start := moment{ns: now}
	if start.after(tat) {
		tat = start
	}
	if units < 0 {
		step, ok := r.span(-units)
		if !ok || step.after(r.sub(tat, start)) {
			return start
		}
		return r.sub(tat, step)
	}
	step, ok := r.span(units)
	if !ok {
		step = moment{ns: maxFull}
	}
	return r.earlier(r.add(tat, step), r.add(start, moment{ns: 2 * maxFull}))
}

// earlier bounds what is owed, so that no sum overflows.
func (r *Rate) earlier(a, b moment) moment {
	if a.after(b) {
		return b
	}
	return a
}

// left is what can be taken from the bucket; a TAT after limit, made by a clock that went backwards, leaves nothing.
func (r *Rate) left(tat, limit moment) int64 {
	if tat.after(limit) {
		return 0
	}
	return r.units(r.sub(limit, tat))
}

// maxFull bounds the time in which an empty bucket fills up, so that no sum of times overflows: nine years, in nanoseconds.
const maxFull = math.MaxInt64 >> 5

// MaxFull is the longest time in which a bucket may fill up.
const MaxFull = time.Duration(maxFull)

// The bounds of a rate.
const (
	MaxRequests = 1_000_000_000
	MinPer      = time.Millisecond
	MaxPer      = 366 * 24 * time.Hour
)

// latestNow keeps the sums of decide from overflowing, with any rate.
const latestNow = 1 << 62
