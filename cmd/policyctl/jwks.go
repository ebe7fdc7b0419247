package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/policy-engine/policy-engine/worker"
)

// keySetTimeout bounds the fetches of a key set.
const keySetTimeout = 30 * time.Second

// jwks shows the keys of a key set. It fails if none of them can verify tokens.
func (p *program) jwks(args []string) error {
	var source worker.KeySetSource
	var discover bool
	f := p.flags("policyctl jwks [FLAGS] URL|FILE",
		"Reads a key set as a worker does (a JWK set, or public keys and certificates in PEM), and prints for each key\nwhether tokens are verified with it, or why not.")
	f.BoolVar(&discover, "discover", false, "take URL for an issuer, whose configuration document says where the key set is")
	f.StringVar(&source.CAFile, "ca-file", "", "a `file` with the authorities of the server's certificate, in place of the system's")
	f.BoolVar(&source.AllowHTTP, "allow-http", false, "allow http to other machines")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return badUsage("%v; --help lists the flags", err)
	case f.NArg() != 1:
		return badUsage("expected one URL or file, got %d", f.NArg())
	}
	content, err := p.readKeySet(f.Arg(0), discover, source)
	if err != nil {
		return err
	}
	keys, err := worker.InspectKeySet(content)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Arg(0), err)
	}
	return p.printKeySet(keys)
}

// readKeySet gets the key set from a URL or a file.
func (p *program) readKeySet(from string, discover bool, source worker.KeySetSource) ([]byte, error) {
	if !strings.HasPrefix(from, "https://") && !strings.HasPrefix(from, "http://") {
		if discover {
			return nil, badUsage("--discover takes the URL of an issuer, got %q", from)
		}
		return os.ReadFile(from)
	}
	source.URI = from
	if discover {
		source.URI, source.Issuer = "", from
	}
	ctx, cancel := context.WithTimeout(context.Background(), keySetTimeout)
	defer cancel()
	content, at, err := worker.FetchKeySet(ctx, source)
	if err == nil && discover {
		fmt.Fprintf(p.stdout, "jwks_uri: %s\n", at)
	}
	return content, err
}

func (p *program) printKeySet(keys []worker.KeyReport) error {
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	used := 0
	for i := range keys {
		k := &keys[i]
		state := "used"
		if k.Problem != "" {
			state = "not used: " + k.Problem
		} else {
			used++
		}
		// What the set says is quoted: it may have control characters.
		fmt.Fprintf(w, "%s\tkid %q\t%s\t%s\t%s\n", k.Place, k.ID, orDash(quoteUnlessPlain(k.Type)), orDash(k.Algorithm), state)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if used == 0 {
		return fmt.Errorf("the key set has %d keys, and none that verifies tokens", len(keys))
	}
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// quoteUnlessPlain returns s as it is if it is printable ASCII, and quoted otherwise.
func quoteUnlessPlain(s string) string {
	if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c >= 0x7f }) {
		return fmt.Sprintf("%q", s)
	}
	return s
}
