package worker

import (
	"fmt"
	"time"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/filemode"
	"github.com/policy-engine/policy-engine/watch"
	"github.com/policy-engine/policy-engine/worker/jwks"
	"github.com/policy-engine/policy-engine/worker/keystore"
)

// CheckFiles reads the key files and key sets that the configuration names, as Run does at its start, and returns all that is wrong with
// them, each as `FILE:LINE: PATH: what is wrong`. A key file of which no key is valid now is wrong too. Nothing is fetched from a URL.
func CheckFiles(cfg *config.Worker, now time.Time) []error {
	var errs []error
	bad := func(pos config.Pos, key string, err error) {
		pos.Path += "." + key
		errs = append(errs, config.Error{Pos: pos, Problem: err.Error()})
	}
	for _, k := range cfg.KeyStores {
		content, err := read(k.File)
		if err != nil {
			bad(k.Pos, "file", err)
			continue
		}
		keys, err := keystore.Parse(k.File, content)
		if err != nil {
			errs = append(errs, err) // With the positions in the key file.
			continue
		}
		if usable, expired, early := keystore.Validity(keys, now); usable == 0 && len(keys) > 0 {
			bad(k.Pos, "file", fmt.Errorf("%q has no key that is valid now, of %d expired and %d not yet valid; add one with policyctl keys new", k.File, expired, early))
		}
	}
	for _, i := range cfg.JWTIssuers {
		if i.CAFile != "" {
			if _, err := read(i.CAFile); err != nil {
				bad(i.Pos, "tls.ca_file", err)
			}
		}
		if i.JWKSFile == "" {
			continue
		}
		content, err := read(i.JWKSFile)
		if err != nil {
			bad(i.Pos, "jwks_file", err)
			continue
		}
		if _, _, err := jwks.Parse(content); err != nil {
			bad(i.Pos, "jwks_file", fmt.Errorf("%q: %w", i.JWKSFile, err))
		}
	}
	return errs
}

// read reads a file that a worker refuses if others may write it.
func read(file string) ([]byte, error) {
	content, err := watch.ReadChecked(file, keystore.MaxFileSize, filemode.CheckFile)
	if err != nil {
		return nil, fmt.Errorf("the file can't be read: %w", err)
	}
	return content, nil
}
