package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/worker"
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
	id, notBefore, expires   string
	scopes, groups, metadata list
	file                     string
	others                   []worker.KeyFileEntry // keys that the file has, of this client and of others
}

// keyEntryFlags parses the flags that both commands have.
func (p *program) keyEntryFlags(name, about string, args []string) (*keyEntry, error) {
	var e keyEntry
	f := p.flags("policyctl keys "+name+" --id ID [FLAGS]", about+" A client may have several keys, under the same id: to change a key, add the new "+
		"entry, give the client the new key, and let the old entry expire. With --file, the new key has the scopes, groups and metadata of the client's last key in that file.")
	f.StringVar(&e.id, "id", "", "who the `client` is; required")
	f.Var(&e.scopes, "scope", "a `scope` that the key has; may be repeated")
	f.Var(&e.groups, "group", "a `group` that the client is in; may be repeated")
	f.Var(&e.metadata, "metadata", "a fact about the client, `NAME=VALUE`; may be repeated")
	f.StringVar(&e.notBefore, "not-before", "", "when the key begins: a `time` such as 2027-12-31T00:00:00Z, or a duration from now such as 24h")
	f.StringVar(&e.expires, "expires", "", "when the key ends: a `time` such as 2027-12-31T00:00:00Z, or a duration from now such as 720h")
	f.StringVar(&e.file, "file", "", "the key `file` that the entry is for; it is read only")
	if err := parse(f, args); err != nil {
		return nil, err
	}
	if e.id == "" {
		return nil, badUsage("--id is missing; it is required")
	}
	if !visible(e.id) || len(e.id) > 256 {
		return nil, badUsage("--id %q is not an id; expected 1 to 256 visible ASCII characters", e.id)
	}
	for _, s := range e.scopes {
		if !visible(s) || strings.ContainsAny(s, `"\`) { // scope-token of RFC 6749 section 3.3
			return nil, badUsage("--scope %q is not a scope; expected visible ASCII characters other than '\"' and '\\'", s)
		}
	}
	for _, m := range e.metadata {
		if name, value, ok := strings.Cut(m, "="); !ok || name == "" || value == "" {
			return nil, badUsage("--metadata %q is not an entry; expected NAME=VALUE", m)
		}
	}
	var err error
	if e.notBefore, err = p.keyTime("--not-before", e.notBefore); err != nil {
		return nil, err
	}
	if e.expires, err = p.keyTime("--expires", e.expires); err != nil {
		return nil, err
	}
	if e.file == "" {
		return &e, nil
	}
	if e.others, err = worker.InspectKeyFile(e.file); err != nil {
		return nil, err
	}
	for i := len(e.others) - 1; i >= 0; i-- {
		if last := &e.others[i]; last.ID == e.id {
			e.inherit(last)
			break
		}
	}
	return &e, nil
}

// inherit takes from the client's last key what no flag says.
func (e *keyEntry) inherit(last *worker.KeyFileEntry) {
	if e.scopes == nil {
		e.scopes = last.Scopes
	}
	if e.groups == nil {
		e.groups = last.Groups
	}
	if e.metadata == nil {
		for _, m := range last.Metadata {
			e.metadata = append(e.metadata, m.Key+"="+m.Value)
		}
	}
}

// keyTime reads the value of a flag: a time, or a duration from now. It returns a time to come, in UTC.
func (p *program) keyTime(flag, value string) (string, error) {
	if value == "" {
		return "", nil
	}
	at, err := time.Parse(time.RFC3339, value)
	if err != nil {
		d, err := time.ParseDuration(value)
		if err != nil {
			return "", badUsage("%s %q is not a time; expected a time such as 2027-12-31T00:00:00Z, or a duration such as 720h", flag, value)
		}
		at = p.now().Add(d)
	}
	if !at.After(p.now()) {
		return "", badUsage("%s %q has passed; expected a time to come", flag, value)
	}
	return at.UTC().Truncate(time.Second).Format(time.RFC3339), nil
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
	entry, err := e.yaml(key)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "# The key, shown only now; give it to the client:\n%s\n# The entry for the key file:\n%s\n%s", key, entry, p.rotation(e))
	return err
}

// rotation says which other keys the client has, and how they end.
func (p *program) rotation(e *keyEntry) string {
	var b strings.Builder
	for i := range e.others {
		switch other := &e.others[i]; {
		case other.ID != e.id:
		case other.Expires.IsZero():
			fmt.Fprintf(&b, "# The key on line %d of %s has no end. Give it one by which the client has the new key, such as: expires: %s\n",
				other.Line, e.file, p.now().UTC().Add(24*time.Hour).Truncate(time.Second).Format(time.RFC3339))
		default:
			verb := "ends"
			if !other.Expires.After(p.now()) {
				verb = "ended"
			}
			fmt.Fprintf(&b, "# The key on line %d of %s %s %s.\n", other.Line, e.file, verb, other.Expires.UTC().Format(time.RFC3339))
		}
	}
	return b.String()
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
		return badUsage("the standard input is not a key; expected one line of 1 to %d visible ASCII characters", maxKey)
	}
	entry, err := e.yaml(key)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.stdout, entry)
	return err
}

// yaml is the entry in the flow style, which fits on a line. What a worker would refuse is an error.
func (e *keyEntry) yaml(key string) (string, error) {
	digest := sha256.Sum256([]byte(key))
	var b strings.Builder
	fmt.Fprintf(&b, "  - {id: %s, sha256: %q", quoteYAML(e.id), hex.EncodeToString(digest[:]))
	quoted := func(member string, values []string) {
		if len(values) == 0 {
			return
		}
		b.WriteString(", " + member + ": [")
		for i, v := range values {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(quoteYAML(v))
		}
		b.WriteString("]")
	}
	quoted("scopes", e.scopes)
	quoted("groups", e.groups)
	for i, m := range e.metadata {
		name, value, _ := strings.Cut(m, "=")
		sep := ", "
		if i == 0 {
			sep = ", metadata: {"
		}
		b.WriteString(sep + quoteYAML(name) + ": " + quoteYAML(value))
	}
	if len(e.metadata) > 0 {
		b.WriteString("}")
	}
	if e.notBefore != "" {
		b.WriteString(", not_before: " + e.notBefore)
	}
	if e.expires != "" {
		b.WriteString(", expires: " + e.expires)
	}
	entry := b.String() + "}"
	for i := range e.others {
		if other := &e.others[i]; other.SHA256 == digest {
			return "", badUsage("the key is on line %d of %s already, as that of %q; expected another key", other.Line, e.file, other.ID)
		}
	}
	if err := worker.CheckKeyEntry(entry); err != nil {
		return "", badUsage("not an entry of a key file: %v", err)
	}
	return entry, nil
}

// quoteYAML writes a string in double quotes. JSON is YAML, and so are its strings.
func quoteYAML(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // A strings.Builder does not fail.
	return strings.TrimSuffix(b.String(), "\n")
}
