package kernel

import (
	"net/http"
	"sync"
	"time"

	"github.com/policy-engine/policy-engine/fastpath/memory"
)

const (
	// maxPages is how many pages are made at a time, and maxPagesPerPeer how many for one peer: each takes processor time and memory.
	maxPages        = 8
	maxPagesPerPeer = 4
	// slotWait is how long a request waits for its turn, and slotTick how often it asks.
	slotWait = 2 * time.Second
	slotTick = 10 * time.Millisecond
	// pageWrite is how long a peer may take to read a page that is not a profile.
	pageWrite = 10 * time.Second
)

// slots bound the pages that are made at the same time.
type slots struct {
	mu    sync.Mutex
	taken int
	peers map[string]int
}

func newSlots() *slots { return &slots{peers: make(map[string]int)} }

func (s *slots) take(peer string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken >= maxPages || s.peers[peer] >= maxPagesPerPeer {
		return false
	}
	s.taken++
	s.peers[peer]++
	return true
}

func (s *slots) give(peer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	if s.peers[peer]--; s.peers[peer] == 0 {
		delete(s.peers, peer)
	}
}

// turn waits for a slot, and returns what gives it back; nil if there is none in time.
func (s *slots) turn(r *http.Request) (done func()) {
	peer := memory.Peer(remote(r))
	if !s.take(peer) {
		tick := time.NewTicker(slotTick)
		defer tick.Stop()
		timeout := time.NewTimer(slotWait)
		defer timeout.Stop()
		for !s.take(peer) {
			select {
			case <-tick.C:
			case <-timeout.C:
				return nil
			case <-r.Context().Done():
				return nil
			}
		}
	}
	return func() { s.give(peer) }
}

// bounded makes pages in turns.
func (s *slots) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		done := s.turn(r)
		if done == nil {
			tooMany(w)
			return
		}
		defer done()
		next.ServeHTTP(w, r)
	})
}

func tooMany(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, "too many requests at a time; ask again", http.StatusServiceUnavailable)
}
