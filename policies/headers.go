package policies

import (
	"fmt"
	"iter"
	"slices"

	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/fastpath/headername"
	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
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

// equalSpelling is equalFold that takes all characters but letters and digits for the same: many servers do (CGI, WSGI, PHP).
func equalSpelling(a []byte, b string) bool { return a != nil && headername.Equal(a, b) }

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// checkHeader reports why a policy may not set the header: the error is the policy's, with its name, rather than a refusal of the kernel or of Envoy.
func checkHeader(name string, value []byte) error {
	if err := httpsyntax.Field(name, value); err != nil {
		return fmt.Errorf("set header %q: %w", name, err)
	}
	return nil
}

// CheckHeader reports why a policy may not set the header; nil if it may. For parameters that name headers.
func CheckHeader(name, value string) error { return checkHeader(name, view.Bytes(value)) }

// CheckOwnedHeader reports why a policy may not own the header (see Owner); nil if it may. For parameters that name headers.
func CheckOwnedHeader(name string) error {
	if err := CheckHeader(name, ""); err != nil {
		return err
	}
	if headername.Reserved(name) {
		return fmt.Errorf("%q is a header that clients and proxies send; the engine would remove it on every route", name)
	}
	return nil
}

// framing are header fields that carry something else than credentials, which a policy that removes them would break.
var framing = []string{"cookie", "content-length", "content-type", "transfer-encoding", "connection", "te", "upgrade", "x-request-id", "x-forwarded-for"}

// CheckCredentialHeader reports why a policy may not read a credential from the header, and remove it; nil if it may. For parameters
// that name headers; the error names example as one that it may.
func CheckCredentialHeader(name, example string) error {
	if err := CheckHeader(name, ""); err != nil {
		return fmt.Errorf("%w; expected a header name such as %s", err, example)
	}
	if slices.Contains(framing, lowerName(name)) {
		return fmt.Errorf("%q has another meaning, expected a header of its own, such as %s", name, example)
	}
	return nil
}

// SameHeader reports whether a server may read one name as the other: they differ only in case, and in characters that are neither
// letters nor digits. For parameters that name headers.
func SameHeader(a, b string) bool { return headername.Equal(a, b) }

// FoldHeader returns the one spelling that stands for all names that are the SameHeader: lower case, with '-' for what is neither a
// letter nor a digit.
func FoldHeader(name string) string { return headername.Fold(name) }

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
