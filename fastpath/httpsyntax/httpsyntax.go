// Package httpsyntax has the rules for the parts of HTTP messages that policies may set: header names and values, paths, methods and statuses. The worker's SDK checks what a
// policy sets by them, and the kernel what a worker sends: a rule that stands in one place cannot differ between the two.
package httpsyntax

import (
	"errors"
	"unicode"
	"unicode/utf8"
)

// Limits of what one answer of a worker may set. In bytes, where not said otherwise.
const (
	// MaxFields is how many header fields Envoy takes in one mutation by default.
	MaxFields = 100
	// MaxFieldBytes is how long their names and values may be together.
	MaxFieldBytes = 60 * 1024
	// MaxBody is the longest body of an answer that a policy gives in place of the upstream.
	MaxBody = 1024 * 1024
	// MaxReason is the longest reason: it becomes the label of a metric.
	MaxReason = 64
	// MaxDetail is the longest detail of a reason, in bytes.
	MaxDetail = 256
)

// The rules that a value can break.
var (
	ErrNoName     = errors.New("the name is empty")
	ErrName       = errors.New("the name has a character that is not allowed in a header name (RFC 9110 section 5.6.2)")
	ErrHost       = errors.New("the host is not for policies to change: Envoy forbids it")
	ErrEnvoy      = errors.New("x-envoy- headers are not for policies to change: Envoy forbids it")
	ErrFraming    = errors.New("only Envoy and the engine set it: it frames the body, or belongs to the connection")
	ErrLineBreak  = errors.New("the value has a NUL, CR or LF")
	ErrValue      = errors.New("the value has a control character (RFC 9110 section 5.5)")
	ErrPath       = errors.New("it must begin with '/', and neither with '//' nor '/\\'")
	ErrPathByte   = errors.New("a character that must be percent-encoded (RFC 3986)")
	ErrMethod     = errors.New("not a token (RFC 9110 section 9.1)")
	ErrMethodUse  = errors.New("CONNECT and PRI change what the connection is used for")
	ErrStatus     = errors.New("must be between 200 and 599")
	ErrGRPCStatus = errors.New("gRPC status must be between 0 and 16, and not 0 with an HTTP status of 400 or above")
	ErrReason     = errors.New("not a reason; expected up to 64 lower-case letters, digits and '_'")
	ErrTooMany    = errors.New("too many header fields, or too long ones; expected up to 100 fields of 61440 bytes together")
	ErrBody       = errors.New("the body is too long; expected up to 1048576 bytes")
)

// tokenBytes are the characters of a token (RFC 9110 section 5.6.2).
var tokenBytes = func() (is [256]bool) {
	for c := range is {
		is[c] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		is[c] = true
	}
	return is
}()

// Token reports whether s is a token (RFC 9110 section 5.6.2): not empty, and of token characters only.
func Token[T []byte | string](s T) bool {
	for i := range len(s) {
		if !tokenBytes[s[i]] {
			return false
		}
	}
	return len(s) > 0
}

// Unhex returns the value of a hexadecimal digit, -1 for other bytes.
func Unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// Name reports why a policy may not set or remove a header field of that name, in any case of its letters. It does not allocate.
func Name(name string) error {
	switch {
	case name == "":
		return ErrNoName
	case !Token(name):
		return ErrName
	}
	// Fast path: x-user and its like are none of the names below.
	if c := name[0] | 0x20; c == 'x' {
		if len(name) >= len("x-envoy-") && EqualFold(name[:len("x-envoy-")], "x-envoy-") {
			return ErrEnvoy
		}
		return nil
	}
	if EqualFold(name, "host") {
		return ErrHost
	}
	if Framing(name) {
		return ErrFraming
	}
	return nil
}

// Framing reports whether a field says how the bytes of a body are framed and coded (RFC 9112 section 6, RFC 9110 section 8.4), or what the connection is used for (RFC 9110
// section 7.6.1): another value is another message for the next hop than the one that was checked.
func Framing(name string) bool {
	switch len(name) {
	case 2:
		return EqualFold(name, "te")
	case 6:
		return EqualFold(name, "expect")
	case 7:
		return EqualFold(name, "trailer") || EqualFold(name, "upgrade")
	case 10:
		return EqualFold(name, "connection") || EqualFold(name, "keep-alive")
	case 14:
		return EqualFold(name, "content-length") || EqualFold(name, "http2-settings")
	case 16:
		return EqualFold(name, "content-encoding") || EqualFold(name, "proxy-connection")
	case 17:
		return EqualFold(name, "transfer-encoding")
	}
	return false
}

// Value reports why a header field may not have the value. Bytes above 0x7f are allowed (obs-text of RFC 9110 section 5.5).
func Value[T []byte | string](value T) error {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			if c == 0 || c == '\r' || c == '\n' {
				return ErrLineBreak
			}
			return ErrValue
		}
	}
	return nil
}

// Field is Name and Value.
func Field[T []byte | string](name string, value T) error {
	if err := Name(name); err != nil {
		return err
	}
	return Value(value)
}

// Path reports why a request may not get the path. It takes an origin-form target (RFC 9112 section 3.2.1). A second '/' would begin the host of a network-path
// reference (RFC 3986 section 4.2) for servers that parse the target as a URL; some of them take '\' for '/'.
func Path[T []byte | string](path T) error {
	if len(path) == 0 || path[0] != '/' || len(path) > 1 && (path[1] == '/' || path[1] == '\\') {
		return ErrPath
	}
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return ErrPathByte
		}
	}
	return nil
}

// Method reports why a request may not get the method. CONNECT (RFC 9110 section 9.3.6) makes a tunnel of the connection, PRI (RFC 9113 section 3.4) is the preface of HTTP/2; servers
// that ignore case exist.
func Method[T []byte | string](method T) error {
	switch {
	case !Token(method):
		return ErrMethod
	case EqualFold(method, "CONNECT"), EqualFold(method, "PRI"):
		return ErrMethodUse
	}
	return nil
}

// StatusText reports why a response may not get the status, which is three digits.
func StatusText[T []byte | string](status T) error {
	if len(status) != 3 || status[0] < '2' || status[0] > '5' || !digit(status[1]) || !digit(status[2]) {
		return ErrStatus
	}
	return nil
}

// Status reports why an answer may not have the status: below 200 it is no final answer (RFC 9110 section 15.2), and Envoy makes 200 of it.
func Status(status int) error {
	if status < 200 || status > 599 {
		return ErrStatus
	}
	return nil
}

// GRPCStatus reports why an answer of that HTTP status may not have the gRPC status: with 0, which is OK, a refusal would be a success for a gRPC client.
func GRPCStatus(status int, grpc uint32) error {
	if grpc > 16 || grpc == 0 && status >= 400 {
		return ErrGRPCStatus
	}
	return nil
}

// Reason reports why an answer may not have the reason, which may be empty.
func Reason(reason string) error {
	if len(reason) > MaxReason {
		return ErrReason
	}
	for i := range len(reason) {
		if c := reason[i]; (c < 'a' || c > 'z') && !digit(c) && c != '_' {
			return ErrReason
		}
	}
	return nil
}

// Detail returns the part of a reason's detail that fits into MaxDetail bytes, with a '?' for each control character and each byte that is
// not UTF-8. It does not allocate for a text that fits.
func Detail(text string) string {
	// Fast path: printable ASCII.
	if len(text) <= MaxDetail && printable(text) {
		return text
	}
	const more = "…"
	made := make([]byte, 0, MaxDetail)
	fits := 0 // so much of made has more behind it within the limit
	for _, r := range text {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '?'
		}
		if len(made)+utf8.RuneLen(r) > MaxDetail {
			return string(append(made[:fits], more...))
		}
		made = utf8.AppendRune(made, r)
		if len(made) <= MaxDetail-len(more) {
			fits = len(made)
		}
	}
	return string(made)
}

func printable(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// EqualFold compares without regard to the case of ASCII letters. It does not allocate.
func EqualFold[T []byte | string](a T, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(b) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func digit(c byte) bool { return '0' <= c && c <= '9' }
