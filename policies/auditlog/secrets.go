package auditlog

import (
	"bytes"
	"strings"

	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
	"github.com/policy-engine/policy-engine/fastpath/view"
)

// credentials are names whose values are never written: of headers, cookies, parameters, claims and metadata. A name
// matches as a whole or as a component, such as api_key in a[api_key][].
var credentials = []string{
	"api_key", "code", "proxy_authenticate", "saml_request", "saml_response", "www_authenticate", "x_forwarded_client_cert",
}

// credentialWords make a credential of each name that has one of them as a word: new_password, X-Auth-Token, otp1.
var credentialWords = newNames([]string{
	"password", "passwd", "passwort", "pwd", "passphrase", "passcode", "secret", "token", "apikey", "credential",
	"credentials", "otp", "totp", "sid", "jwt", "cookie", "authorization", "signature", "sig", "assertion", "bearer", "cvv",
	"cvc", "csrf", "xsrf",
})

// lastWords make one of each name whose last word they are: subscription-key, user_pin.
var lastWords = newNames([]string{"key", "pin", "ticket", "auth", "pass", "session"})

// credentialEnds make one of each name that ends with them, whatever is before: accesstoken, PHPSESSID.
var credentialEnds = []string{
	"token", "secret", "password", "passwd", "passphrase", "sessid", "sessionid", "sessionkey", "apikey", "accesskey", "authkey",
	"privatekey", "secretkey", "subscriptionkey", "jwt", "credential", "credentials", "authcode", "accesscode", "verificationcode",
}

// harmless are names that end like a credential and are none.
var harmless = newNames([]string{
	"cache_key", "foreign_key", "idempotency_key", "object_key", "partition_key", "primary_key", "public_key", "sec_websocket_key",
	"sort_key", "surrogate_key",
})

const (
	// maxFold is the longest name that is looked up, in bytes. A longer one counts as a credential.
	maxFold = 128
	// maxDecodings is how often a name or value is decoded to find what it hides. What is still encoded then counts as a
	// credential.
	maxDecodings = 4
)

// names is a set of names, without regard to case, '-' and '_'.
type names map[string]bool

func newNames(lists ...[]string) names {
	n := names{}
	for _, list := range lists {
		for _, name := range list {
			n[string(fold(nil, name))] = true
		}
	}
	return n
}

// has reports whether the value under that name must not be written. The name is decoded.
func (n names) has(name string) bool {
	if len(name) > maxFold {
		return true
	}
	var buf [maxFold]byte
	folded := fold(buf[:0], name)
	if n[string(folded)] {
		return true
	}
	for rest := name; rest != ""; {
		component := rest
		if i := strings.IndexAny(rest, "[].:/()\"' \t<>{}$@!,"); i >= 0 {
			component, rest = rest[:i], rest[i+1:]
		} else {
			rest = ""
		}
		if folded = fold(buf[:0], component); n[string(folded)] || isCredential(component, folded) {
			return true
		}
	}
	return false
}

// isCredential reports whether a component of a name is that of a credential by its words.
func isCredential(component string, folded []byte) bool {
	if harmless[string(folded)] {
		return false
	}
	stem := bytes.TrimRight(folded, "0123456789")
	for _, end := range credentialEnds {
		if len(stem) >= len(end) && string(stem[len(stem)-len(end):]) == end {
			return true
		}
	}
	for begin := 0; begin < len(component); {
		end := begin + 1
		for end < len(component) && !startsWord(component, end) {
			end++
		}
		var buf [maxFold]byte
		word := bytes.TrimRight(fold(buf[:0], component[begin:end]), "0123456789")
		if credentialWords[string(word)] || end == len(component) && lastWords[string(word)] {
			return true
		}
		begin = end
	}
	return false
}

// startsWord reports whether a word starts at i: after a character that is not a letter or digit, or as in accessToken.
func startsWord(name string, i int) bool {
	before, c := name[i-1], name[i]
	return !alphanumeric(before) || 'A' <= c && c <= 'Z' && ('a' <= before && before <= 'z' || '0' <= before && before <= '9')
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// fold appends the letters, digits and characters that are not ASCII of a name, in lower case; and all others but '-',
// '_' and '+', which some decode to a space.
func fold(dst []byte, name string) []byte {
	for i := range len(name) {
		switch c := name[i]; {
		case c == '-' || c == '_' || c == '+' || c <= ' ':
		case 'A' <= c && c <= 'Z':
			dst = append(dst, c+'a'-'A')
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// secret reports whether the value of a parameter must not be written, however often its name is encoded. A name that
// cannot be decoded is read by each upstream in its own way, and counts as a credential.
func (n names) secret(name []byte) bool {
	var buf [maxFold]byte
	for range maxDecodings {
		switch {
		case n.has(view.String(name)):
			return true
		case bytes.IndexByte(name, '%') < 0:
			return false
		case malformed(name):
			return true
		}
		name = unescape(buf[:0], name)
	}
	return bytes.IndexByte(name, '%') >= 0 || n.has(view.String(name))
}

// leaks reports whether a value has a credential in it: a URL with one in its query, fragment or user information, or an
// object, in any encoding.
func (n names) leaks(value []byte) bool {
	var buf [maxValue]byte
	for range maxDecodings {
		if n.exposes(value) {
			return true
		}
		size := len(value)
		if bytes.IndexByte(value, '%') < 0 {
			return false
		}
		if value = unescape(buf[:0], value); len(value) == size {
			return false // It has no escapes.
		}
	}
	return n.exposes(value) || len(unescape(buf[:0], value)) < len(value)
}

// exposes reports whether text has a credential as it is: the name of one before '=' or ':', or the user information of a
// URL.
func (n names) exposes(text []byte) bool {
	if _, _, ok := userinfo(text); ok {
		return true
	}
	for begin, i := 0, 0; i < len(text); i++ {
		switch text[i] {
		case '=', ':':
			name := text[begin:i]
			if n.has(view.String(name)) || text[i] == '=' && malformed(name) {
				return true
			}
			begin = i + 1
		case '\\':
			if i+1 < len(text) && (text[i+1] == 'u' || text[i+1] == 'x') {
				return true // An escape of JSON, in which a name may be hidden.
			}
			begin = i + 1
		case '&', ';', '?', '#', ',', '/', ' ', '\t', '\r', '\n', '|', '<', '>':
			begin = i + 1
		}
	}
	return false
}

// userinfo finds the user information of the first URL in text that has one: text[from:to], before the '@'.
func userinfo(text []byte) (from, to int, ok bool) {
	for at := 0; ; {
		i := bytes.Index(text[at:], []byte("//"))
		if i < 0 {
			return 0, 0, false
		}
		at += i + 2
		authority := text[at:]
		if end := bytes.IndexAny(authority, "/?#\\ \t\"<>"); end >= 0 {
			authority = authority[:end]
		}
		if n := bytes.LastIndexByte(authority, '@'); n > 0 {
			return at, at + n, true
		}
	}
}

// malformed reports whether text has a '%' that starts no percent-encoding.
func malformed(text []byte) bool {
	for i, c := range text {
		if c == '%' && (i+2 >= len(text) || httpsyntax.Unhex(text[i+1]) < 0 || httpsyntax.Unhex(text[i+2]) < 0) {
			return true
		}
	}
	return false
}

// unescape appends text with its percent-encodings decoded once. dst may be the memory of text.
func unescape(dst, text []byte) []byte {
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '%' && i+2 < len(text) && httpsyntax.Unhex(text[i+1]) >= 0 && httpsyntax.Unhex(text[i+2]) >= 0 {
			c = byte(httpsyntax.Unhex(text[i+1])<<4 | httpsyntax.Unhex(text[i+2]))
			i += 2
		}
		dst = append(dst, c)
	}
	return dst
}
