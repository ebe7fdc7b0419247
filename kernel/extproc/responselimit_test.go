package extproc

import (
	"fmt"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/config"
)

// TestResponseHeaderLimits: Envoy takes 60 KiB of header fields from upstreams over HTTP/2, and 80 KiB over HTTP/1.
// The kernel lets no response pass that Envoy could refuse: it takes more than 60 KiB only where the response comes
// over HTTP/1 for certain, or where the configuration says so.
func TestResponseHeaderLimits(t *testing.T) {
	const kib = 1024
	fixed := len(":status") + len("200") + len("h-size") // of what comes
	added := len("x-a") + len("1")
	for _, tc := range []struct {
		name    string
		limits  config.Limits
		headers string // of the response, beside h-size
		size    int    // of what comes
		passes  bool
	}{
		{"HTTP/2", config.Limits{}, "", 60*kib - added, true},
		{"HTTP/2, one more", config.Limits{}, "", 60*kib - added + 1, false},
		{"HTTP/2, as much as Envoy takes", config.Limits{}, "", 60 * kib, false},
		{"HTTP/2, with what Envoy adds", config.Limits{}, "", 61 * kib, false},
		{"more than HTTP/2 has", config.Limits{}, "", 61*kib + 1, true},
		{"HTTP/1", config.Limits{}, "", 80*kib - added, true},
		{"HTTP/1, one more", config.Limits{}, "", 80*kib - added + 1, false},
		{"chunked", config.Limits{}, " transfer-encoding=chunked", 60 * kib, true},
		{"connection", config.Limits{}, " connection=close", 60 * kib, true},
		{"chunked, one more", config.Limits{}, " transfer-encoding=chunked", 80*kib - added + 1, false},
		{"configured lower", config.Limits{MaxResponseHeaderSize: 10 * kib}, " transfer-encoding=chunked", 10*kib - added, true},
		{"configured lower, one more", config.Limits{MaxResponseHeaderSize: 10 * kib}, " transfer-encoding=chunked", 10*kib - added + 1, false},
		{"configured higher", config.Limits{MaxResponseHeaderSize: 96 * kib}, "", 96*kib - added, true},
		{"configured higher, one more", config.Limits{MaxResponseHeaderSize: 96 * kib}, "", 96*kib - added + 1, false},
		{"requests lower", config.Limits{MaxHeaderSize: 10 * kib}, "", 60*kib - added, true},
		{"requests higher", config.Limits{MaxHeaderSize: 96 * kib}, "", 96*kib - added, true},
		{"requests higher, one more", config.Limits{MaxHeaderSize: 96 * kib}, "", 96*kib - added + 1, false},
	} {
		for _, form := range []struct{ name, policies, body string }{
			{"headers", "auth@h", ""},
			{"whole body", "auth@hb", "response_body body=x end_of_stream"},
			{"withheld", "auth@hb", "response_body body=x end_of_stream"},
		} {
			t.Run(tc.name+", "+form.name, func(t *testing.T) {
				w := newWorld()
				w.kernel.Limits = tc.limits
				for _, line := range []string{"worker w1 " + form.policies, "route r response auth"} {
					if err := w.setUp(words(line)); err != nil {
						t.Fatal(err)
					}
				}
				m := New(w.settings(t))
				size := tc.size - fixed
				for _, field := range strings.Fields(tc.headers) {
					size -= len(field) - len("=")
				}
				request := "request_headers :method=GET :path=/ end_of_stream"
				if form.name == "withheld" {
					request = "request_headers full_duplex :method=GET :path=/ end_of_stream"
				}
				events := []string{"open r", request, fmt.Sprintf("response_headers :status=200%s h-size=%s", tc.headers, strings.Repeat("v", size)), "result CONTINUE context=c set:x-a=1"}
				if form.body != "" {
					events = append(events, form.body, "result CONTINUE context=c")
				}
				shown := ""
				for _, event := range events {
					var err error
					if shown, err = w.deliver(m, words(event)); err != nil {
						t.Fatalf("%.60s: %v", event, err)
					}
					if strings.Contains(shown, "immediate") {
						break
					}
				}
				if refused := strings.Contains(shown, "immediate 502") && strings.Contains(shown, "RESPONSE_TOO_LARGE"); refused == tc.passes {
					t.Errorf("passes %v: %.200s", !refused, shown)
				}
				m.Close()
				w.checkReleased(t)
			})
		}
	}
}
