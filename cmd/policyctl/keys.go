package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	// keyPrefix lets people and scanners of secrets recognise a key.
	keyPrefix = "pe_"
	keyBytes  = 32 // of randomness
	// maxKey is the longest line that is taken for a key, in bytes.
	maxKey = 4096
)

func (p *program) keys(args []string) error {
	return p.dispatch("policyctl keys", []command{
		{"new", "print a fresh key, once, and its entry for a key file", (*program).keysNew},
		{"digest", "read a key from the standard input and print its entry for a key file", (*program).keysDigest},
	}, args)
}

// keyEntry is an entry of a key file, without its digest.
type keyEntry struct {
	id, expires string
	scopes      list
}

// keyEntryFlags parses the flags that both commands have.
func (p *program) keyEntryFlags(name, about string, args []string) (*keyEntry, error) {
	var e keyEntry
	f := p.flags("policyctl keys "+name+" --id ID [--scope SCOPE]... [--expires TIME]", about)
	f.StringVar(&e.id, "id", "", "who the `client` is; required")
	f.Var(&e.scopes, "scope", "a `scope` that the key has; may be repeated")
	f.StringVar(&e.expires, "expires", "", "when the key ends: a `time` such as 2027-12-31T00:00:00Z, or a duration from now such as 720h")
	if err := parse(f, args); err != nil {
		return nil, err
	}
	if e.id == "" {
		return nil, badUsage("--id is missing; it is required")
	}
	if !visible(e.id) || len(e.id) > 256 {
		return nil, badUsage("--id %q is not an id; legal are 1 to 256 visible ASCII characters", e.id)
	}
	for _, s := range e.scopes {
		if !visible(s) || strings.ContainsAny(s, `"\`) { // scope-token of RFC 6749 section 3.3
			return nil, badUsage("--scope %q is not a scope; legal are visible ASCII characters other than '\"' and '\\'", s)
		}
	}
	if e.expires == "" {
		return &e, nil
	}
	end, err := time.Parse(time.RFC3339, e.expires)
	if err != nil {
		d, err := time.ParseDuration(e.expires)
		if err != nil {
			return nil, badUsage("--expires %q is not a time; legal is a time such as 2027-12-31T00:00:00Z, or a duration such as 720h", e.expires)
		}
		end = p.now().Add(d)
	}
	if !end.After(p.now()) {
		return nil, badUsage("--expires %q has passed; legal is a time to come", e.expires)
	}
	e.expires = end.UTC().Truncate(time.Second).Format(time.RFC3339)
	return &e, nil
}

func visible(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return s != ""
}

func (p *program) keysNew(args []string) error {
	e, err := p.keyEntryFlags("new", "Prints a fresh key of 256 random bits, which is kept nowhere, and the entry with its digest for the list \"keys\" of a key file.", args)
	if err != nil {
		return err
	}
	raw := make([]byte, keyBytes)
	if _, err := io.ReadFull(p.random, raw); err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	key := keyPrefix + base64.RawURLEncoding.EncodeToString(raw)
	_, err = fmt.Fprintf(p.stdout, "# The key, shown only now; give it to the client:\n%s\n# The entry for the key file:\n%s\n", key, e.yaml(key))
	return err
}

func (p *program) keysDigest(args []string) error {
	e, err := p.keyEntryFlags("digest", "Reads a key from the standard input, one line, and prints the entry with its digest for the list \"keys\" of a key file.", args)
	if err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(p.stdin, maxKey+2)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the key: %w", err)
	}
	// The key is not shown in messages.
	key := strings.TrimRight(line, "\r\n")
	if !visible(key) || len(key) > maxKey {
		return badUsage("the standard input is not a key; legal is one line of 1 to %d visible ASCII characters", maxKey)
	}
	_, err = fmt.Fprintln(p.stdout, e.yaml(key))
	return err
}

// yaml is the entry in the flow style, which fits on a line. %q is legal in double quotes of YAML for visible ASCII.
func (e *keyEntry) yaml(key string) string {
	digest := sha256.Sum256([]byte(key))
	var b strings.Builder
	fmt.Fprintf(&b, "  - {id: %q, sha256: %q", e.id, hex.EncodeToString(digest[:]))
	if len(e.scopes) > 0 {
		b.WriteString(", scopes: [")
		for i, s := range e.scopes {
			if i > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "%q", s)
		}
		b.WriteString("]")
	}
	if e.expires != "" {
		b.WriteString(", expires: " + e.expires)
	}
	return b.String() + "}"
}
