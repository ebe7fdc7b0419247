// Package latency counts latencies in buckets, in bounded memory, and tells their percentiles.
package latency

import (
	"math"
	"math/bits"
	"time"
)

// precision is in bits: the buckets of a power of two are 2^precision, so that a percentile is wrong by less than 1/128.
const precision = 7

const (
	linear  = 1 << (precision + 1) // below it, each microsecond/8 has a bucket
	buckets = linear + (40-precision)*(1<<precision)
	// unit is the finest difference that is told, 1/8 of a microsecond.
	unit = 125 * time.Nanosecond
)

// Histogram counts latencies from 0 to more than a day. The zero value is empty. It is for one goroutine at a time.
type Histogram struct {
	counts   [buckets]uint64
	count    uint64
	sum      time.Duration
	min, max time.Duration
}

// Add counts one latency. It does not allocate.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	h.counts[min(bucket(uint64(d/unit)), buckets-1)]++
	if h.count == 0 || d < h.min {
		h.min = d
	}
	h.max = max(h.max, d)
	h.count++
	h.sum += d
}

// Merge adds what another histogram has counted.
func (h *Histogram) Merge(o *Histogram) {
	if o.count == 0 {
		return
	}
	for i, n := range o.counts {
		h.counts[i] += n
	}
	if h.count == 0 || o.min < h.min {
		h.min = o.min
	}
	h.max = max(h.max, o.max)
	h.count += o.count
	h.sum += o.sum
}

// Count is how many latencies were added.
func (h *Histogram) Count() uint64 { return h.count }

// Max is the longest latency, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Mean is the arithmetic mean, exactly; 0 if there is nothing.
func (h *Histogram) Mean() time.Duration {
	if h.count == 0 {
		return 0
	}
	return h.sum / time.Duration(h.count)
}

// Percentile returns the smallest latency that p percent of all are not above (nearest rank); 0 if there is nothing. Beyond the fine buckets it is
// up to 1/128 too long, and never longer than the longest latency.
func (h *Histogram) Percentile(p float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := max(uint64(math.Ceil(p/100*float64(h.count))), 1)
	if rank >= h.count {
		return h.max
	}
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return min(max(upper(i), h.min), h.max)
		}
	}
	return h.max
}

// Bar is a stretch of latencies, and how many were in it.
type Bar struct {
	From, To time.Duration
	Count    uint64
}

// Bars returns all buckets in which there is something, in order.
func (h *Histogram) Bars() []Bar {
	var out []Bar
	for i, n := range h.counts {
		if n > 0 {
			out = append(out, Bar{From: lower(i), To: upper(i), Count: n})
		}
	}
	return out
}

// bucket is linear up to 2^(precision+1) units, then each power of two has 2^precision buckets.
func bucket(units uint64) int {
	if units < linear {
		return int(units)
	}
	shift := bits.Len64(units) - precision - 1
	return linear + (shift-1)<<precision + int(units>>shift) - 1<<precision
}

// lower is the shortest latency of a bucket, upper the first one beyond it.
func lower(i int) time.Duration {
	if i < linear {
		return time.Duration(i) * unit
	}
	i -= linear
	shift := i>>precision + 1
	return time.Duration(uint64(i&(1<<precision-1)+1<<precision)<<shift) * unit
}

func upper(i int) time.Duration { return lower(i + 1) }
