// Package burst keeps many requests in flight at the same time and has the upstream answer all of them at once: the load
// of a service whose upstream stalls and then continues.
package burst

import (
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Header has the number of a request of a burst.
const Header = "x-burst"

// Upstream holds the requests of a burst until it is released. It is an http.Handler.
type Upstream struct {
	// Checked reports whether the policies of the request flow have run for a request. Nil means that nobody asks.
	Checked func(*http.Request) bool

	mu        sync.Mutex
	arrived   []time.Time // by request; zero: not yet
	count     int         // requests that arrived
	unchecked int
	repeated  int
	change    chan struct{} // has room for one; a request has arrived
	released  chan struct{}
}

// begin forgets the burst before and expects another one.
func (u *Upstream) begin(requests int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.arrived = make([]time.Time, requests)
	u.count, u.unchecked, u.repeated = 0, 0, 0
	u.change, u.released = make(chan struct{}, 1), make(chan struct{})
}

// ServeHTTP implements http.Handler.
func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	released := u.arrive(r)
	if released == nil {
		http.Error(w, "this request is not one of a burst", http.StatusNotFound)
		return
	}
	select {
	case <-released:
	case <-r.Context().Done():
	}
	w.Header().Set("content-length", "3")
	_, _ = w.Write([]byte("ok\n"))
}

// arrive records a request and returns what to wait for; nil if the request does not belong to the burst.
func (u *Upstream) arrive(r *http.Request) <-chan struct{} {
	now := time.Now()
	checked := u.Checked == nil || u.Checked(r)
	u.mu.Lock()
	defer u.mu.Unlock()
	i, err := strconv.Atoi(r.Header.Get(Header))
	if err != nil || i < 0 || i >= len(u.arrived) {
		return nil
	}
	if !checked {
		u.unchecked++
	}
	if u.arrived[i].IsZero() {
		u.arrived[i] = now
		u.count++
	} else {
		u.repeated++
	}
	select {
	case u.change <- struct{}{}:
	default:
	}
	return u.released
}

// await waits until as many requests have arrived as expected says, and returns how many have.
func (u *Upstream) await(expected func() int, until <-chan time.Time, done <-chan struct{}) int {
	// The number that is expected falls as requests are lost, without a request that arrives.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		u.mu.Lock()
		n, change := u.count, u.change
		u.mu.Unlock()
		if n >= expected() {
			return n
		}
		select {
		case <-change:
		case <-tick.C:
		case <-until:
			return n
		case <-done:
			return n
		}
	}
}

// release answers all requests, and those that come later at once.
func (u *Upstream) release() {
	u.mu.Lock()
	defer u.mu.Unlock()
	close(u.released)
}

// seen returns when requests have arrived, how many came unchecked, and how many came a second time.
func (u *Upstream) seen() (arrived []time.Time, unchecked, repeated int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]time.Time(nil), u.arrived...), u.unchecked, u.repeated
}
