package worker

import (
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/watch"
	"github.com/policy-engine/policy-engine/worker/keystore"
)

// KeyFileEntry is a key of a key file.
type KeyFileEntry struct {
	// Line is where the entry begins.
	Line int
	// ID names the client, which may have several keys.
	ID                 string
	SHA256             [32]byte
	Scopes, Groups     []string
	Metadata           []policies.Entry
	NotBefore, Expires time.Time // zero for no bound
}

// InspectKeyFile reads a key file as a worker does, and returns its keys in the order of the file.
func InspectKeyFile(file string) ([]KeyFileEntry, error) {
	content, err := watch.Read(file, keystore.MaxFileSize)
	if err != nil {
		return nil, err
	}
	entries, err := keystore.Inspect(file, content)
	if err != nil {
		return nil, err
	}
	keys := make([]KeyFileEntry, 0, len(entries))
	for i := range entries {
		e := &entries[i]
		keys = append(keys, KeyFileEntry{
			e.Line, e.Key.ID, e.Digest, e.Key.Scopes, e.Groups, e.Metadata, e.Key.NotBefore, e.Key.Expires,
		})
	}
	return keys, nil
}

// CheckKeyEntry returns what is wrong with one entry of the list "keys" of a key file, in YAML.
func CheckKeyEntry(entry string) error {
	_, err := keystore.Parse("entry", []byte("keys:\n"+strings.TrimRight(entry, "\n")+"\n"))
	return err
}
