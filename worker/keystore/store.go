// Package keystore finds API keys by their digests, which come from a file and are followed as it changes.
package keystore

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"

	"github.com/policy-engine/policy-engine/fastpath/filemode"
	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/watch"
)

// MaxFileSize is the largest key file, in bytes: about 500,000 keys.
const MaxFileSize = 64 << 20

// Store is a key store with the keys of one file. It is safe for concurrent use.
//
// What a client presents is compared by its SHA-256 only, as the key of a hash table. How long that takes depends on the digest, not
// on the key: to learn from it how near a guess came to some key, one would have to choose the digests of one's guesses, which SHA-256 prevents. There is
// no comparison of secrets, constant in time or not.
type Store struct {
	name  string
	clock policies.Clock
	log   *slog.Logger
	file  *watch.File
	keys  atomic.Pointer[map[[32]byte]*policies.Key] // immutable once it is stored
}

// Open reads the key file and follows it until Close. A file that can't be read, or with mistakes, is an error that lists them all. When the file is bad later on, the
// keys of the last good one stay, and one log line lists the mistakes.
func Open(name, file string, clock policies.Clock, log *slog.Logger) (*Store, error) {
	s := &Store{name: name, clock: clock, log: log.With("key_store", name)}
	var err error
	s.file, err = watch.Follow(watch.Settings{
		Path:    file,
		MaxSize: MaxFileSize,
		Check:   filemode.CheckFile,
		Load:    func(content []byte) error { return s.load(file, content) },
		Log:     s.log,
	})
	if err != nil {
		return nil, fmt.Errorf("open key store %q: %w", name, err)
	}
	return s, nil
}

// Lookup returns the key whose SHA-256 is digest, nil if there is none. It takes no lock and does not allocate. Whether
// the key has expired is for the caller to see.
func (s *Store) Lookup(digest *[32]byte) (*policies.Key, error) {
	keys := s.keys.Load()
	if keys == nil {
		return nil, errNotLoaded
	}
	return (*keys)[*digest], nil
}

// Len returns how many keys there are.
func (s *Store) Len() int {
	if keys := s.keys.Load(); keys != nil {
		return len(*keys)
	}
	return 0
}

// Close ends the following of the file. The keys stay.
func (s *Store) Close() error { return s.file.Close() }

var errNotLoaded = errors.New("look up API key: the key store was never loaded")

func (s *Store) load(file string, content []byte) error {
	keys, err := Parse(file, content)
	if err != nil {
		return err
	}
	expired, now := 0, s.clock.Now()
	for _, k := range keys {
		if !k.Expires.IsZero() && !now.Before(k.Expires) {
			expired++
		}
	}
	s.keys.Store(&keys)
	s.log.Info("API keys loaded", "keys", len(keys), "expired", expired)
	return nil
}

var (
	_ policies.KeyStore = (*Store)(nil)
	_ io.Closer         = (*Store)(nil)
)
