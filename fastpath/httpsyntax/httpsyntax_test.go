package httpsyntax

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"
)

func TestName(t *testing.T) {
	for name, want := range map[string]error{
		"x-user": nil, "X-User": nil, "accept": nil, "trailers": nil, "x": nil, "x-env": nil, "x-envoys": nil, "~": nil,
		"": ErrNoName, "a b": ErrName, ":path": ErrName, "x-\xc3\xa9": ErrName, "a\n": ErrName,
		"host": ErrHost, "HOST": ErrHost, "x-envoy-a": ErrEnvoy, "X-Envoy-": ErrEnvoy,
		"TE": ErrFraming, "Trailer": ErrFraming, "upgrade": ErrFraming, "expect": ErrFraming, "Connection": ErrFraming, "keep-alive": ErrFraming,
		"Content-Length": ErrFraming, "http2-settings": ErrFraming, "content-encoding": ErrFraming, "proxy-connection": ErrFraming, "Transfer-Encoding": ErrFraming,
	} {
		if got := Name(name); !errors.Is(got, want) {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

func TestChecksDoNotAllocate(t *testing.T) {
	name, value, path := strings.Repeat("x", 40), []byte(strings.Repeat("v", 100)), []byte("/orders/7?page=2")
	if n := testing.AllocsPerRun(100, func() {
		if Field(name, value) != nil || Path(path) != nil || Method("GET") != nil || StatusText("200") != nil || Reason("no_key") != nil {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzField: what is allowed is allowed by the judgement of others' code too.
func FuzzField(f *testing.F) {
	f.Add("x-user", "alice")
	f.Add("x-\xe9", "a\r\nb")
	f.Fuzz(func(t *testing.T, name, value string) {
		if Field(name, value) == nil && (!httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) || Framing(strings.ToLower(name))) {
			t.Errorf("allowed: %q: %q", name, value)
		}
		if Path(value) == nil && (value[0] != '/' || strings.HasPrefix(value, "//") || strings.ContainsAny(value, " #\r\n\t\x00")) {
			t.Errorf("allowed path: %q", value)
		}
	})
}
