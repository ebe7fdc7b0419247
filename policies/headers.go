package policies

import (
	"fmt"
	"iter"

	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/fastpath/view"
)

// headers is a header map as the current policy sees it: what Envoy sent, with the changes made since laid over it.
type headers struct {
	fields []headermap.Field // a field with a nil name is gone
}

func (h *headers) reset() {
	clear(h.fields)
	h.fields = h.fields[:0]
}

func (h *headers) parse(src []byte) (err error) {
	h.fields, err = headermap.Parse(h.fields[:0], src)
	return err
}

func (h *headers) get(name string) (value []byte, n int) {
	for i := range h.fields {
		if equalFold(h.fields[i].Name, name) {
			if n++; n == 1 {
				value = h.fields[i].Value
			}
		}
	}
	return value, n
}

func (h *headers) all() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for i := range h.fields {
			if h.fields[i].Name != nil && !yield(h.fields[i].Name, h.fields[i].Value) {
				return
			}
		}
	}
}

func (h *headers) set(name string, value []byte) {
	placed := false
	for i := range h.fields {
		if !equalFold(h.fields[i].Name, name) {
			continue
		}
		if placed {
			h.fields[i].Name = nil
			continue
		}
		h.fields[i] = headermap.Field{Name: view.Bytes(name), Value: value}
		placed = true
	}
	if !placed {
		h.append(name, value)
	}
}

func (h *headers) append(name string, value []byte) {
	h.fields = append(h.fields, headermap.Field{Name: view.Bytes(name), Value: value})
}

// remove takes all fields of that name away and tells whether there were any.
func (h *headers) remove(name string) (found bool) {
	for i := range h.fields {
		if equalFold(h.fields[i].Name, name) {
			h.fields[i].Name, found = nil, true
		}
	}
	return found
}

// equalFold compares header names without regard to ASCII case (RFC 9110 section 5.1). A field that is gone (nil) equals nothing.
func equalFold(a []byte, b string) bool {
	if len(a) != len(b) || a == nil {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// equalSpelling is equalFold that takes '-' and '_' for the same: many servers do (CGI, WSGI, PHP).
func equalSpelling(a []byte, b string) bool {
	if len(a) != len(b) || a == nil {
		return false
	}
	for i := range a {
		if x, y := dash(lower(a[i])), dash(lower(b[i])); x != y {
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

func dash(c byte) byte {
	if c == '_' {
		return '-'
	}
	return c
}

// checkHeader refuses what Envoy 1.36 refuses in a header mutation (mutation_utils.cc, mutation_checker.cc): the error is the
// policy's, with its name, rather than a 500 of Envoy without one.
func checkHeader(name string, value []byte) error {
	if name == "" {
		return fmt.Errorf("set header: the name is empty")
	}
	for i := range len(name) {
		if !tokenChar(name[i]) {
			return fmt.Errorf("set header %q: the name has a character that is not legal in a header name (RFC 9110 section 5.6.2)", name)
		}
	}
	if equalFold(view.Bytes(name), "host") {
		return fmt.Errorf("set header %q: Envoy forbids changes of the host", name)
	}
	if envoyOwns(name) {
		return fmt.Errorf("set header %q: Envoy forbids changes of x-envoy- headers", name)
	}
	if framesBody(name) {
		return fmt.Errorf("set header %q: it tells how the body goes, and follows by itself", name)
	}
	for _, c := range value {
		switch {
		case c == 0 || c == '\r' || c == '\n':
			return fmt.Errorf("set header %q: the value has a NUL, CR or LF", name)
		case c < ' ' && c != '\t' || c == 0x7f:
			return fmt.Errorf("set header %q: the value has a control character (RFC 9110 section 5.5)", name)
		}
	}
	return nil
}

// envoyOwns tells the headers that Envoy lets nobody else set or remove.
func envoyOwns(name string) bool {
	return len(name) >= 8 && equalFold(view.Bytes(name[:8]), "x-envoy-")
}

// framesBody tells the headers that say how the bytes of a body go: how many they are (RFC 9112 section 6) and how they are coded (RFC 9110 section 8.4). Another value is
// another body for the upstream, or for the client, than the policies have seen.
func framesBody(name string) bool {
	switch len(name) {
	case len("content-length"):
		return equalFold(view.Bytes(name), "content-length")
	case len("content-encoding"):
		return equalFold(view.Bytes(name), "content-encoding")
	case len("transfer-encoding"):
		return equalFold(view.Bytes(name), "transfer-encoding")
	}
	return false
}

// CheckHeader reports why a policy may not set the header; nil if it may. For parameters that name headers.
func CheckHeader(name, value string) error { return checkHeader(name, view.Bytes(value)) }

// tokenChar tells the characters of a token (RFC 9110 section 5.6.2).
func tokenChar(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return false
}

// lowerName returns name in lower case, itself when it is already.
func lowerName(name string) string {
	for i := range len(name) {
		if c := name[i]; 'A' <= c && c <= 'Z' {
			b := []byte(name)
			for j := i; j < len(b); j++ {
				b[j] = lower(b[j])
			}
			return string(b)
		}
	}
	return name
}
