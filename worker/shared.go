package worker

import (
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
)

// sharedValues are what policies keep from one generation to the next: counters, connections, caches.
type sharedValues struct {
	log *slog.Logger

	mu     sync.Mutex
	values map[sharedKey]*sharedValue
}

// sharedKey is private to a policy's name.
type sharedKey struct{ policy, key string }

// sharedValue is counted by the generations that use it.
type sharedValue struct {
	key    sharedKey
	opened chan struct{} // closed when value and err are set
	value  io.Closer
	err    error
	users  int // guarded by sharedValues.mu
}

func newSharedValues(log *slog.Logger) *sharedValues {
	return &sharedValues{log: log, values: make(map[sharedKey]*sharedValue)}
}

// use counts one more user of the key's value, and opens it for the first. Others that come while it is being opened wait for it.
func (s *sharedValues) use(key sharedKey, open func() (io.Closer, error)) (*sharedValue, error) {
	s.mu.Lock()
	v, ok := s.values[key]
	if !ok {
		v = &sharedValue{key: key, opened: make(chan struct{})}
		s.values[key] = v
	}
	v.users++
	s.mu.Unlock()
	if !ok {
		v.value, v.err = guardedOpen(open)
		if v.err != nil {
			s.mu.Lock()
			delete(s.values, key) // The next one tries again.
			s.mu.Unlock()
		}
		close(v.opened)
	}
	<-v.opened
	return v, v.err
}

func guardedOpen(open func() (io.Closer, error)) (value io.Closer, err error) {
	defer func() {
		if p := recover(); p != nil {
			value, err = nil, fmt.Errorf("open shared value: panic: %v\n%s", p, debug.Stack())
		}
	}()
	value, err = open()
	if err == nil && value == nil {
		err = fmt.Errorf("open shared value: it is nil")
	}
	return value, err
}

// drop counts one user less, and closes the value after the last.
func (s *sharedValues) drop(v *sharedValue) {
	s.mu.Lock()
	v.users--
	last := v.users == 0
	if last {
		delete(s.values, v.key)
	}
	s.mu.Unlock()
	if last {
		guardedClose(s.log, v.key.policy, v.value)
	}
}

// guardedClose closes what a policy opened: neither its error nor its panic stops the worker.
func guardedClose(log *slog.Logger, policy string, c io.Closer) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("close of a policy panicked", "policy", policy, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	if err := c.Close(); err != nil {
		log.Warn("close of a policy failed", "policy", policy, "error", fmt.Sprint(err))
	}
}
