package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jws"
)

// defaultIssuer is the demo's (deploy/demo/worker-config-1.yaml).
const defaultIssuer = "https://issuer.demo.example"

// tokenFlags are what a token says.
type tokenFlags struct {
	subject, issuer, alg, kid, key string
	scopes, audience, claims       list
	ttl                            time.Duration
}

func (p *program) token(args []string) error {
	if len(args) > 0 && args[0] == "init" {
		return p.tokenInit(args[1:])
	}
	var t tokenFlags
	f := p.flags("policyctl token --sub SUBJECT [FLAGS]\n       policyctl token init [--dir DIR]",
		"Prints a token of the demo's issuer. The private key is that of --key, of $POLICYCTL_ISSUER_KEY,\nor "+
			filepath.Join(defaultIssuerDir, issuerKeyFile)+"; policyctl token init makes one.")
	f.StringVar(&t.subject, "sub", "", "the `subject`; required")
	f.Var(&t.scopes, "scope", "a `scope` of the token; may be repeated")
	f.StringVar(&t.issuer, "issuer", defaultIssuer, "the `issuer`, as the worker's jwt_issuers has it")
	f.Var(&t.audience, "audience", "an `audience` of the token; may be repeated")
	f.DurationVar(&t.ttl, "ttl", time.Hour, "the token's life; a negative one makes a token that has expired")
	f.StringVar(&t.alg, "alg", "", "the signature `algorithm`, one of "+algorithms+" (default: the one of the key)")
	f.StringVar(&t.kid, "kid", "", "the `id` of the key (default: the one in the key set of token init)")
	f.Var(&t.claims, "claim", "one more claim, `NAME=VALUE`, where VALUE is JSON or else a text; may be repeated")
	f.StringVar(&t.key, "key", "", "the `file` with the issuer's private key")
	if err := parse(f, args); err != nil {
		return err
	}
	if t.subject == "" {
		return badUsage("--sub is missing; it is required")
	}
	if t.key == "" {
		t.key = p.getenv("POLICYCTL_ISSUER_KEY")
	}
	if t.key == "" {
		t.key = filepath.Join(defaultIssuerDir, issuerKeyFile)
	}
	signed, err := t.sign(p.now())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "%s\n", signed)
	return err
}

// sign makes the token and signs it.
func (t *tokenFlags) sign(now time.Time) ([]byte, error) {
	key, err := readKey(t.key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; make one with: policyctl token init --dir %s", err, filepath.Dir(t.key))
	} else if err != nil {
		return nil, err
	}
	alg, err := algorithmOf(key)
	if err != nil {
		return nil, err
	}
	if t.alg != "" && t.alg != alg {
		return nil, badUsage("--alg %q does not fit the key %q; legal is %s", t.alg, t.key, alg)
	}
	claims, err := t.payload(now)
	if err != nil {
		return nil, err
	}
	_, kid, err := publicJWK(key)
	if err != nil {
		return nil, err
	}
	if t.kid != "" {
		kid = t.kid
	}
	headers := jws.NewHeaders()
	if err := errors.Join(headers.Set(jws.KeyIDKey, kid), headers.Set(jws.TypeKey, "JWT")); err != nil {
		return nil, fmt.Errorf("set kid %q: %w", kid, err)
	}
	signature, ok := jwa.LookupSignatureAlgorithm(alg)
	if !ok {
		return nil, fmt.Errorf("sign token: unknown algorithm %q", alg)
	}
	signed, err := jws.Sign(claims, jws.WithKey(signature, key, jws.WithProtectedHeaders(headers)))
	if err != nil {
		return nil, fmt.Errorf("sign token: %w", err)
	}
	return signed, nil
}

// payload makes the claims (RFC 7519 section 4.1).
func (t *tokenFlags) payload(now time.Time) ([]byte, error) {
	end := now.Add(t.ttl)
	claims := map[string]any{"iss": t.issuer, "sub": t.subject, "iat": min(now.Unix(), end.Unix()), "exp": end.Unix()}
	switch len(t.audience) {
	case 0:
	case 1:
		claims["aud"] = t.audience[0]
	default:
		claims["aud"] = []string(t.audience)
	}
	if len(t.scopes) > 0 {
		claims["scope"] = strings.Join(t.scopes, " ") // RFC 8693 section 4.2
	}
	for _, c := range t.claims {
		name, value, found := strings.Cut(c, "=")
		if !found || name == "" {
			return nil, badUsage("--claim %q is not a claim; legal is NAME=VALUE", c)
		}
		switch name {
		case "iss", "sub", "aud", "exp", "iat", "scope":
			return nil, badUsage("--claim %s has a flag of its own; --help lists the flags", name)
		}
		claims[name] = value
		if json.Valid([]byte(value)) {
			claims[name] = json.RawMessage(value)
		}
	}
	return json.Marshal(claims)
}
