// Package keystore finds API keys by their digests, which come from a file and are followed as it changes.
package keystore

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/policy-engine/policy-engine/fastpath/filemode"
	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/watch"
)

// MaxFileSize is the largest key file, in bytes: about 500,000 keys.
const MaxFileSize = 64 << 20

// Store is a key store with the keys of one file. It is safe for concurrent use.
//
// What a client presents is compared by its SHA-256 only, as the key of a hash table. How long that takes depends on the digest, not
// on the key: to learn from it how near a guess came to some key, one would have to choose the digests of one's guesses, which SHA-256
// prevents. There is no comparison of secrets, constant in time or not.
type Store struct {
	name     string
	clock    policies.Clock
	log      *slog.Logger
	file     *watch.File
	loaded   atomic.Pointer[loaded]
	failures atomic.Uint64
	broken   atomic.Int64 // since when the file is of no use, in Unix nanoseconds; 0 if it is of use
}

// loaded is the content of a key file. It is immutable.
type loaded struct {
	keys map[[32]byte]*policies.Key
	at   time.Time
	// begins and ends are the bounds of lifetimes, in ascending order.
	begins, ends []time.Time
}

// Status is what is known of the keys and their file.
type Status struct {
	// Usable, Expired and Early are how many keys are valid now, no longer, and not yet.
	Usable, Expired, Early int
	// Loaded is when the keys in use were loaded; zero means never.
	Loaded time.Time
	// Failures counts contents of the file that could not be loaded.
	Failures uint64
	// Broken is since when the file could not be loaded; zero if the keys in use are those of the file.
	Broken time.Time
}

// Open reads the key file and follows it until Close. A file that can't be read, or with mistakes, is an error that lists them all.
// When the file is bad later on, the keys of the last good one stay, and one log line lists the mistakes.
func Open(name, file string, clock policies.Clock, log *slog.Logger) (*Store, error) {
	s := &Store{name: name, clock: clock, log: log.With("key_store", name)}
	var err error
	s.file, err = watch.Follow(watch.Settings{
		Path:    file,
		MaxSize: MaxFileSize,
		Check:   filemode.CheckFile,
		Load:    func(content []byte) error { return s.load(file, content) },
		Failed:  func(err error) { s.failed(file, err) },
		Log:     s.log,
	})
	if err != nil {
		return nil, fmt.Errorf("open key store %q: %w", name, err)
	}
	return s, nil
}

// Lookup returns the key whose SHA-256 is digest, nil if there is none. It takes no lock and does not allocate. Whether
// the key is valid now is for the caller to see.
func (s *Store) Lookup(digest *[32]byte) (*policies.Key, error) {
	l := s.loaded.Load()
	if l == nil {
		return nil, errNotLoaded
	}
	return l.keys[*digest], nil
}

// Len returns how many keys there are.
func (s *Store) Len() int {
	if l := s.loaded.Load(); l != nil {
		return len(l.keys)
	}
	return 0
}

// Status returns what is known of the keys now. It does not look at each key.
func (s *Store) Status() Status {
	st := Status{Failures: s.failures.Load()}
	if broken := s.broken.Load(); broken != 0 {
		st.Broken = time.Unix(0, broken)
	}
	if l := s.loaded.Load(); l != nil {
		st.Loaded = l.at
		st.Usable, st.Expired, st.Early = l.count(s.clock.Now())
	}
	return st
}

// Close ends the following of the file. The keys stay.
func (s *Store) Close() error { return s.file.Close() }

var errNotLoaded = errors.New("look up API key: the key store was never loaded")

func (s *Store) load(file string, content []byte) error {
	keys, err := Parse(file, content)
	if err != nil {
		return err
	}
	l := newLoaded(keys, s.clock.Now())
	s.loaded.Store(l)
	s.broken.Store(0)
	usable, expired, early := l.count(l.at)
	s.log.Info("API keys loaded", "keys", len(keys), "expired", expired, "early", early)
	if usable == 0 && len(keys) > 0 {
		s.log.Warn("no API key of the key store is valid now", "expired", expired, "early", early)
	}
	return nil
}

func (s *Store) failed(file string, err error) {
	s.failures.Add(1)
	s.broken.CompareAndSwap(0, s.clock.Now().UnixNano())
	s.log.Error("file not loaded; what was loaded before stays in use", "file", file, "error", err)
}

func newLoaded(keys map[[32]byte]*policies.Key, at time.Time) *loaded {
	l := &loaded{keys: keys, at: at}
	for _, k := range keys {
		if !k.NotBefore.IsZero() {
			l.begins = append(l.begins, k.NotBefore)
		}
		if !k.Expires.IsZero() {
			l.ends = append(l.ends, k.Expires)
		}
	}
	slices.SortFunc(l.begins, time.Time.Compare)
	slices.SortFunc(l.ends, time.Time.Compare)
	return l
}

// count returns how many keys are valid at that time, no longer, and not yet. A key that has ended has begun: the parser sees to it.
func (l *loaded) count(now time.Time) (usable, expired, early int) {
	until := func(times []time.Time) int {
		n, _ := slices.BinarySearchFunc(times, now, func(t, now time.Time) int {
			if t.After(now) {
				return 1
			}
			return -1
		})
		return n
	}
	expired, early = until(l.ends), len(l.begins)-until(l.begins)
	return len(l.keys) - expired - early, expired, early
}

// Validity returns how many of the keys of a key file are valid at that time, no longer, and not yet.
func Validity(keys map[[32]byte]*policies.Key, now time.Time) (usable, expired, early int) {
	return newLoaded(keys, now).count(now)
}

var (
	_ policies.KeyStore = (*Store)(nil)
	_ io.Closer         = (*Store)(nil)
)
