package document

import (
	"errors"
	"fmt"
	"mime"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"
)

// Transport is what serves ext_proc.
type Transport string

// Legal lists the transports.
func (*Transport) Legal() []string { return []string{"fast", "grpc"} }

// Unknown is what happens to requests of unknown routes.
type Unknown string

// Legal lists the choices.
func (*Unknown) Legal() []string { return []string{"deny", "continue"} }

// RefusalFormat is the form of refusals.
type RefusalFormat string

// Legal lists the forms.
func (*RefusalFormat) Legal() []string { return []string{"auto", "json", "problem_json"} }

// ProcessingMode is what a flow asks of Envoy.
type ProcessingMode string

// Legal lists the modes.
func (*ProcessingMode) Legal() []string {
	return []string{"auto", "headers_only", "buffered_body", "streaming"}
}

// OnFailure is what a policy's failure means.
type OnFailure string

// Legal lists the choices.
func (*OnFailure) Legal() []string { return []string{"deny", "continue", "skip_remaining"} }

// LogLevel is the least level that is logged.
type LogLevel string

// Legal lists the levels.
func (*LogLevel) Legal() []string { return []string{"debug", "info", "warn", "error"} }

// Name is the name of a worker, policy, key store or issuer. It stands in metric labels, logs and messages.
type Name string

const namePattern = `^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`

var nameRegexp = regexp.MustCompile(namePattern)

// UnmarshalText checks the name.
func (n *Name) UnmarshalText(text []byte) error {
	if !nameRegexp.Match(text) {
		return fmt.Errorf("%q is not a name; legal is a letter or digit, then up to 127 letters, digits, '_', '.' and '-'", text)
	}
	*n = Name(text)
	return nil
}

// Pattern is for the schema.
func (*Name) Pattern() string { return namePattern }

// RouteName is a route's name. It travels as gRPC metadata x-policy-route, whose values are printable ASCII without white space around
// (gRPC over HTTP/2, ASCII-Value), and stands in metric labels, where '"' and '\' would have to be escaped.
type RouteName string

const routeNamePattern = `^[!#-\[\]-~]([ !#-\[\]-~]{0,254}[!#-\[\]-~])?$`

var routeNameRegexp = regexp.MustCompile(routeNamePattern)

// UnmarshalText checks the name.
func (r *RouteName) UnmarshalText(text []byte) error {
	if !routeNameRegexp.Match(text) {
		return fmt.Errorf("%q is not a route name; legal are 1 to 256 printable ASCII characters other than '\"' and '\\', without a space at either end", text)
	}
	*r = RouteName(text)
	return nil
}

// Pattern is for the schema.
func (*RouteName) Pattern() string { return routeNamePattern }

// SocketPath is the path of a Unix socket.
type SocketPath string

// MaxSocketPath is what fits into sun_path of Linux with the zero byte at its end (unix(7)).
const MaxSocketPath = 107

// UnmarshalText checks the path.
func (p *SocketPath) UnmarshalText(text []byte) error {
	s := string(text)
	switch {
	case !strings.HasPrefix(s, "/") || strings.ContainsRune(s, 0):
		return fmt.Errorf("%q is not an absolute path; legal is a path that begins with /", s)
	case len(s) > MaxSocketPath:
		return fmt.Errorf("the path has %d bytes; legal are up to %d for a Unix socket", len(s), MaxSocketPath)
	case path.Clean(s) != s:
		return fmt.Errorf("%q is not in its shortest form; legal is %q", s, path.Clean(s))
	case s == "/":
		return errors.New(`"/" is a folder; legal is the path of a socket`)
	}
	*p = SocketPath(s)
	return nil
}

// Pattern is for the schema.
func (*SocketPath) Pattern() string { return `^/.{1,106}$` }

// GuardedAddress is where the guarded pages of the admin server are.
type GuardedAddress string

// UnmarshalText checks the address.
func (g *GuardedAddress) UnmarshalText(text []byte) error {
	s := string(text)
	switch {
	case s == "loopback" || s == "all":
	case strings.HasPrefix(s, "/"):
		if err := new(SocketPath).UnmarshalText(text); err != nil {
			return err
		}
	case new(Endpoint).UnmarshalText(text) != nil:
		return fmt.Errorf("unknown address %q, expected loopback, all, host:port or the path of a Unix socket", s)
	}
	*g = GuardedAddress(s)
	return nil
}

// Pattern is for the schema.
func (*GuardedAddress) Pattern() string { return `^(loopback|all|/.{1,106}|.+:[0-9]{1,5})$` }

// AdminToken is what a holder shows to the admin server.
type AdminToken string

var adminTokenRegexp = regexp.MustCompile(`^[A-Za-z0-9._~+/=-]{16,512}$`) // token68 of RFC 9110 section 11.2

// UnmarshalText checks the token. It never shows it.
func (t *AdminToken) UnmarshalText(text []byte) error {
	if !adminTokenRegexp.Match(text) {
		return fmt.Errorf("is %d bytes that are not a token; legal are 16 to 512 letters, digits and any of .-_~+/=", len(text))
	}
	*t = AdminToken(text)
	return nil
}

// Host is an IP address or a host name.
type Host string

var hostRegexp = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)

// digitsAndDots is what no host name is (RFC 1123 section 2.1: a top-level label is alphabetic).
var digitsAndDots = regexp.MustCompile(`^[0-9.]+$`)

// UnmarshalText checks the host.
func (h *Host) UnmarshalText(text []byte) error {
	s := string(text)
	if _, err := netip.ParseAddr(s); err != nil && (len(s) > 253 || !hostRegexp.MatchString(s) || digitsAndDots.MatchString(s)) {
		return fmt.Errorf("%q is not an address; legal is an IP address or a host name, without a port", s)
	}
	*h = Host(s)
	return nil
}

// HeaderName is the name of a header line of an answer, in lower case.
type HeaderName string

const headerNamePattern = "^[-!#$%&'*+.^_`|~0-9A-Za-z]{1,128}$" // token of RFC 9110 section 5.6.2

var headerNameRegexp = regexp.MustCompile(headerNamePattern)

// UnmarshalText checks the name and brings it into lower case.
func (h *HeaderName) UnmarshalText(text []byte) error {
	name := strings.ToLower(string(text))
	if !headerNameRegexp.Match(text) {
		return fmt.Errorf("%q is not a header name; legal are up to 128 letters, digits and any of !#$%%&'*+-.^_`|~", text)
	}
	switch name {
	case "host", "connection", "content-length", "content-encoding", "transfer-encoding", "expect", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer", "upgrade":
		return fmt.Errorf("%q belongs to the connection, and Envoy sets it; leave it out", name)
	}
	*h = HeaderName(name)
	return nil
}

// Pattern is for the schema.
func (*HeaderName) Pattern() string { return headerNamePattern }

// HeaderValue is the value of a header line.
type HeaderValue string

const headerValuePattern = `^([\x21-\x7E]([\x09\x20-\x7E]*[\x21-\x7E])?)?$` // field-value of RFC 9110 section 5.5, without obs-text

var headerValueRegexp = regexp.MustCompile(headerValuePattern)

// UnmarshalText checks the value.
func (h *HeaderValue) UnmarshalText(text []byte) error {
	if len(text) > 8192 || !headerValueRegexp.Match(text) {
		return fmt.Errorf("%.100q is not a header value; legal are up to 8192 printable ASCII characters, without white space at either end", text)
	}
	*h = HeaderValue(text)
	return nil
}

// Pattern is for the schema.
func (*HeaderValue) Pattern() string { return headerValuePattern }

// MediaType is a content-type.
type MediaType string

const mediaTypePattern = `^[A-Za-z0-9!#$&^_.+-]{1,64}/[A-Za-z0-9!#$&^_.+-]{1,64}([ \t]*;[\x20-\x7E]{1,256})?$` // RFC 6838 section 4.2

var mediaTypeRegexp = regexp.MustCompile(mediaTypePattern)

// UnmarshalText checks the media type.
func (m *MediaType) UnmarshalText(text []byte) error {
	if _, _, err := mime.ParseMediaType(string(text)); err != nil || !mediaTypeRegexp.Match(text) {
		return fmt.Errorf("%.100q is not a media type, expected one such as text/html; charset=utf-8", text)
	}
	*m = MediaType(text)
	return nil
}

// Pattern is for the schema.
func (*MediaType) Pattern() string { return mediaTypePattern }

// KeySetURL is where an issuer's key set is fetched.
type KeySetURL string

// UnmarshalText checks the URL. Whether http is allowed depends on other keys.
func (k *KeySetURL) UnmarshalText(text []byte) error {
	u, err := url.Parse(string(text))
	if err != nil || u.Hostname() == "" || u.Opaque != "" || u.User != nil || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
		return fmt.Errorf("%q is not the URL of a key set, expected an https URL such as https://issuer.example/jwks.json", text)
	}
	*k = KeySetURL(text)
	return nil
}

// IsPlain reports whether what the URL names can be changed on its way: plain http to another machine.
func (k KeySetURL) IsPlain() bool {
	u, err := url.Parse(string(k))
	return err == nil && u.Scheme == "http" && !loopback(u.Hostname())
}

// Pattern is for the schema.
func (*KeySetURL) Pattern() string { return `^https?://` }

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
