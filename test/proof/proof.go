// Package proof is what a request carries to the upstream when the whole chain of policies has run on it: an HMAC of its id, by a key that only the worker and the checker know.
package proof

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
)

// IDHeader carries the request's id from the client to the upstream, Header the proof from the last policy to the upstream.
const (
	IDHeader = "x-fault-id"
	Header   = "x-fault-proof"
)

// Key makes proofs.
type Key []byte

// New makes a key and writes it into a file that its owner alone can read.
func New(file string) (Key, error) {
	key := make(Key, 32)
	_, _ = rand.Read(key) // It never fails (crypto/rand).
	if err := os.WriteFile(file, []byte(hex.EncodeToString(key)), 0o600); err != nil {
		return nil, fmt.Errorf("write the key of the proofs: %w", err)
	}
	return key, nil
}

// Read reads a key that New has written.
func Read(file string) (Key, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the key of the proofs: %w", err)
	}
	key, err := hex.DecodeString(string(text))
	if err != nil || len(key) < 16 {
		return nil, fmt.Errorf("read the key of the proofs %q: it is not one", file)
	}
	return key, nil
}

// Of is the proof for a request's id.
func (k Key) Of(id string) string {
	mac := hmac.New(sha256.New, k)
	mac.Write([]byte(id))
	return hex.EncodeToString(mac.Sum(nil))
}

// Proves reports whether a text is the proof for the id.
func (k Key) Proves(id, text string) bool {
	return hmac.Equal([]byte(k.Of(id)), []byte(text))
}
