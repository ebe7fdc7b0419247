package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestSendBodies(t *testing.T) {
	const text = "mode:\n    request_header_mode: SEND\n    request_trailer_mode: SKIP\n    response_header_mode: SKIP\n    response_trailer_mode: SKIP\nrest\n"
	tests := []struct {
		direction direction
		mode      mode
		want      string
	}{
		{"", streamed, text},
		{"", fullDuplex, text},
		{upload, streamed, "mode:\n    request_header_mode: SEND\n    request_body_mode: STREAMED\n    request_trailer_mode: SKIP\n    response_header_mode: SKIP\n    response_trailer_mode: SKIP\nrest\n"},
		{download, streamed, "mode:\n    request_header_mode: SEND\n    request_trailer_mode: SKIP\n    response_header_mode: SEND\n    response_body_mode: STREAMED\n    response_trailer_mode: SKIP\nrest\n"},
		{upload, fullDuplex, "mode:\n    request_header_mode: SEND\n    request_body_mode: FULL_DUPLEX_STREAMED\n    request_trailer_mode: SEND\n    response_header_mode: SKIP\n    response_trailer_mode: SKIP\nrest\n"},
		{download, fullDuplex, "mode:\n    request_header_mode: SEND\n    request_trailer_mode: SKIP\n    response_header_mode: SEND\n    response_body_mode: FULL_DUPLEX_STREAMED\n    response_trailer_mode: SEND\nrest\n"},
	}
	for _, tt := range tests {
		if got, err := sendBodies(text, tt.direction, tt.mode); err != nil || got != tt.want {
			t.Errorf("%q, %s: %q, error %v", tt.direction, tt.mode, got, err)
		}
	}
	// A configuration that is not as expected would measure something else.
	for _, text := range []string{"", text + text, "request_header_mode: SEND\n"} {
		if got, err := sendBodies(text, upload, fullDuplex); err == nil {
			t.Errorf("%q is taken: %q", text, got)
		}
	}
}

func TestLoad(t *testing.T) {
	u, err := startUpstream()
	if err != nil {
		t.Fatal(err)
	}
	defer u.close()
	for _, d := range []direction{upload, download} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if n, err := load(ctx, u.address, d, 2); err != nil || n == 0 {
			t.Errorf("%s: %d bytes, error %v", d, n, err)
		}
		cancel()
	}
	// What is refused, or cut short, is no throughput.
	for name, handler := range map[string]http.HandlerFunc{
		"refused":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"cut short": func(http.ResponseWriter, *http.Request) {},
	} {
		s := httptest.NewServer(handler)
		if _, err := load(t.Context(), strings.TrimPrefix(s.URL, "http://"), download, 2); err == nil {
			t.Errorf("%s: no error", name)
		}
		s.Close()
	}
}

func TestReport(t *testing.T) {
	r := newReport([]*result{
		{Row: noop, Direction: upload, Rounds: []float64{90, 100, 200}, bytes: 1 << 30, used: map[string]time.Duration{"envoy": 2 * time.Second}},
		{Row: engine, Direction: upload, Rounds: []float64{10, 70, 71}, bytes: 1 << 30},
		{Row: noop, Direction: download, Rounds: []float64{100}, bytes: 1 << 30},
		{Row: engine, Direction: download, Rounds: []float64{69}, bytes: 1 << 30},
	}, options{})
	text := r.String()
	for _, want := range []string{"envoy 2.00", "0.70", "goal 0.7: met", "0.69", "goal 0.7: missed"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
	// Without what it is compared with, a row has no ratio.
	r = newReport([]*result{{Row: engine, Direction: upload, Rounds: []float64{70}, bytes: 1 << 30}}, options{})
	if text := r.String(); r.Results[0].Ratio != 0 || strings.Contains(text, "goal") {
		t.Errorf("ratio %g:\n%s", r.Results[0].Ratio, text)
	}
}
