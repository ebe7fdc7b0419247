package telemetry

import (
	"strings"
	"sync"
	"time"
)

// maxThrottleKeys bounds the memory of a Throttle.
const maxThrottleKeys = 1024

// Throttle lets one line per key and interval through, and counts the others.
type Throttle struct {
	interval time.Duration
	now      func() time.Time

	mu   sync.Mutex
	keys map[string]throttled
}

type throttled struct {
	since      time.Time
	suppressed int
}

// NewThrottle makes a throttle; now is the clock.
func NewThrottle(interval time.Duration, now func() time.Time) *Throttle {
	return &Throttle{interval: interval, now: now, keys: make(map[string]throttled)}
}

// Allow says whether to write a line of this key now, and how many were suppressed since the last one. The throttle keeps a copy of the key. When there are
// too many keys at a time, those beyond share one.
func (t *Throttle) Allow(key string) (suppressed int, ok bool) {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	k, known := t.keys[key]
	if !known && len(t.keys) >= maxThrottleKeys {
		for other, o := range t.keys {
			if now.Sub(o.since) >= t.interval {
				delete(t.keys, other)
			}
		}
		if len(t.keys) >= maxThrottleKeys {
			key = ""
			k, known = t.keys[key]
		}
	}
	if known && now.Sub(k.since) < t.interval {
		k.suppressed++
		t.keys[key] = k
		return 0, false
	}
	if !known {
		key = strings.Clone(key)
	}
	t.keys[key] = throttled{since: now}
	return k.suppressed, true
}
