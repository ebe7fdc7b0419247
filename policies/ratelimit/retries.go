package ratelimit

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/policy-engine/policy-engine/policies"
)

// The bounds of what is remembered of admitted requests, so that an id that is used for ever is no way round the limit.
const (
	// retryWindow is how long after a request was admitted the same one is not counted again.
	retryWindow = time.Minute
	// maxRetries is how often it is not.
	maxRetries = 8
	// numRetries is how many requests are remembered at a place; 40 bytes each.
	numRetries = 1 << 15
)

// retries remembers which requests were admitted not long ago, by client and request id. Each has one slot that it may be in, and gives way there to a later one: what
// is forgotten is counted again. It is safe for concurrent use.
type retries struct {
	mu    sync.Mutex
	slots [numRetries]retrySlot
}

type retrySlot struct {
	key [16]byte
	// since is when the request was admitted, in ns since 1970; 0 is an empty slot.
	since int64
	// repeated is how often it has come again.
	repeated int
}

// Close implements io.Closer.
func (*retries) Close() error { return nil }

// retryKey digests client and id. A request without an id, or with several, has none, and is counted each time.
func retryKey(client [16]byte, r *policies.Request) (key [16]byte, ok bool) {
	id, n := r.Header("x-request-id")
	if n != 1 || len(id) == 0 || len(id) > maxRequestID {
		return key, false
	}
	var buf [16 + maxRequestID]byte
	sum := sha256.Sum256(append(append(buf[:0], client[:]...), id...))
	return [16]byte(sum[:16]), true
}

// maxRequestID is in bytes; Envoy's have 36.
const maxRequestID = 128

func (s *retries) slot(key [16]byte) *retrySlot {
	return &s.slots[(uint(key[0])|uint(key[1])<<8)%numRetries]
}

// isRetry reports whether the request was admitted before, and may pass uncounted.
func (s *retries) isRetry(key [16]byte, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := s.slot(key)
	age := now.UnixNano() - slot.since
	if slot.since == 0 || slot.key != key || age < 0 || age >= int64(retryWindow) || slot.repeated >= maxRetries {
		return false
	}
	slot.repeated++
	return true
}

// admit remembers a request that was counted.
func (s *retries) admit(key [16]byte, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*s.slot(key) = retrySlot{key: key, since: now.UnixNano()}
}
