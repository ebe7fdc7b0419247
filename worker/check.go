package worker

import (
	"fmt"
	"os"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/worker/jwks"
	"github.com/policy-engine/policy-engine/worker/keystore"
)

// CheckFiles reads the key files and key sets that the configuration names, as Run does at its start, and returns all that is wrong with them, each as
// `FILE:LINE: PATH: what is wrong`. Nothing is fetched from a URL.
func CheckFiles(cfg *config.Worker) []error {
	var errs []error
	bad := func(pos config.Pos, key string, err error) {
		pos.Path += "." + key
		errs = append(errs, config.Error{Pos: pos, Problem: err.Error()})
	}
	for _, k := range cfg.KeyStores {
		content, err := os.ReadFile(k.File)
		if err != nil {
			bad(k.Pos, "file", fmt.Errorf("the file can't be read: %w", err))
			continue
		}
		if _, err := keystore.Parse(k.File, content); err != nil {
			errs = append(errs, err) // With the positions in the key file.
		}
	}
	for _, i := range cfg.JWTIssuers {
		if i.CAFile != "" {
			if _, err := os.ReadFile(i.CAFile); err != nil {
				bad(i.Pos, "tls.ca_file", fmt.Errorf("the file can't be read: %w", err))
			}
		}
		if i.JWKSFile == "" {
			continue
		}
		content, err := os.ReadFile(i.JWKSFile)
		if err != nil {
			bad(i.Pos, "jwks_file", fmt.Errorf("the file can't be read: %w", err))
			continue
		}
		if _, _, err := jwks.Parse(content); err != nil {
			bad(i.Pos, "jwks_file", fmt.Errorf("%q: %w", i.JWKSFile, err))
		}
	}
	return errs
}
