package strict

import (
	"regexp"
	"strings"
)

// Secret is a text that is compared, and never shown.
type Secret string

const mask = "***"

func (Secret) String() string { return mask }

// MarshalJSON never fails.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + mask + `"`), nil }

// secretWord are words of keys and of header names whose values are secrets, wherever they come from. Keys are compared in lower case, with '-' for everything that is no letter or digit, and
// with a '-' at both ends.
var secretWord = regexp.MustCompile(
	`secret|passw|passphrase|credential|private|-pwd-|-pass-|-pin-|-otp-|-auth-|authorization|authentication|-cookies?-|-session-(id|token)-|-sid-|-jwt-|-bearer-|-signature-|` +
		`api-?key-|-(access|account|auth|encryption|functions?|master|sas|shared|signing|subscription|token|upstream|user)-key-|^-x(-[a-z0-9]+)*-key-$|-token-$|accesskey-`)

// A line of a list has its name, and its values, under one of these keys: {name: X-Upstream-Auth, value: …}.
var (
	nameKeys  = []string{"name", "header", "key"}
	valueKeys = []string{"value", "values"}
)

// publicKeys are keys of the standard policies that look like those of secrets and hold names.
var publicKeys = map[string]bool{"cookie_name": true, "forward_token": true, "strip_credential": true}

// secretKey reports whether values of the key, or of the header of that name, are secrets.
func secretKey(key string) bool {
	return !publicKeys[key] && secretWord.MatchString(plainKey(key))
}

// plainKey makes -api-key- of X.Api_Key and apiKey.
func plainKey(key string) string {
	var b strings.Builder
	b.WriteByte('-')
	lower := false
	for i := range len(key) {
		c := key[i]
		switch {
		case 'A' <= c && c <= 'Z':
			if lower { // apiKey
				b.WriteByte('-')
			}
			b.WriteByte(c - 'A' + 'a')
			lower = false
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c >= 0x80:
			b.WriteByte(c)
			lower = true
		default:
			b.WriteByte('-')
			lower = false
		}
	}
	b.WriteByte('-')
	return b.String()
}

// secretText are texts that are credentials by their form: an authorization value, a URL with a user or with a credential in its query, a signed token, a private key, keys of well-known makers.
var secretText = []*regexp.Regexp{
	regexp.MustCompile(`(?i)(^|[\s"'=:,])(basic|bearer|digest|negotiate|dpop|hoba|mutual|apikey|aws4-hmac-sha256)[ \t]+[A-Za-z0-9._~+/=-]{4,}`),
	regexp.MustCompile(`(?i)^\s*token[ \t]+[A-Za-z0-9._~+/=-]{4,}`),
	regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s]*@`),
	regexp.MustCompile(`(^|[^A-Za-z0-9_-])eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.`),
	regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----`),
	regexp.MustCompile(`(^|[^A-Za-z0-9])(AKIA|ASIA)[A-Z0-9]{16}`),
	regexp.MustCompile(`(^|[^A-Za-z0-9])(gh[oprsu]_|github_pat_|glpat-|sk_live_|sk-|xox[abprs]-)[A-Za-z0-9_-]{16,}`),
}

// queryPart are the names of a query, of a form, or of the members of a connection string, that have a value.
var queryPart = regexp.MustCompile(`(?:^|[?&;#])([A-Za-z0-9_.\[\]-]{1,64})=[^&;\s]`)

// looksSecret reports whether a text holds a credential.
func looksSecret(text string) bool {
	for _, form := range secretText {
		if form.MatchString(text) {
			return true
		}
	}
	for _, part := range queryPart.FindAllStringSubmatch(text, -1) {
		if secretKey(part[1]) {
			return true
		}
	}
	return false
}

// secretLine reports whether a mapping is a line whose name is that of a secret: {name: X-Upstream-Auth, value: …}.
func secretLine(line map[string]any) bool {
	for _, key := range nameKeys {
		if name, ok := line[key].(string); ok && secretKey(name) {
			return true
		}
	}
	return false
}
