package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	pages := map[string]string{
		"orders & more": `{"name":"orders & more","request":{"body":"buffered","coded_body":"streamed","on_headers":[{"worker":"w1","chain":1,"timeout":"500ms","required":true,"policies":[{"name":"a","on_failure":"deny"},{"name":"b","on_failure":"continue"}]}],
			"on_body":[{"worker":"w2","chain":2,"timeout":"1s","required":false,"policies":[{"name":"c","on_failure":"skip_remaining"}]}]},"response":{"body":"none","coded_body":"none"}}`,
		"typo": `{"name":"typo","request":{"body":"none","coded_body":"none"},"response":{"body":"none","coded_body":"none"},"unsupported":["x","y"]}`,
		"soon": `{"name":"soon","request":{"body":"none","coded_body":"none"},"response":{"body":"none","coded_body":"none"},"undiscovered":true}`,
	}
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		route, known := pages[r.URL.Query().Get("name")]
		if !known {
			http.Error(w, `{"total":0,"routes":[]}`, http.StatusNotFound)
			return
		}
		fmt.Fprintf(w, `{"generation":7,"total":1,"offset":0,"routes":[%s]}`, route)
	}))
	defer admin.Close()
	tests := []struct {
		name, route    string
		want           int
		stdout, stderr string
	}{
		{"a plan", "orders & more", 0, `route orders & more
  request: body buffered, with a content coding streamed
    headers: w1 runs a (on failure deny), b (on failure continue), within 500ms; without it, requests are refused
    body: w2 runs c (on failure skip_remaining), within 1s
  response: no policies
`, ""},
		{"unsupported", "typo", 0, "route typo\n  refuses all requests: no worker offers x, y\n", ""},
		{"undiscovered", "soon", 0, "route soon\n  refuses all requests: a worker has not told yet what it offers\n", ""},
		{"unknown", "x", 1, "", "404 Not Found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			p := &program{stdout: &stdout, stderr: &stderr, getenv: func(string) string { return "" }}
			if got := p.run([]string{"explain", "--admin", admin.URL, tt.route}); got != tt.want || stdout.String() != tt.stdout || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("exit status %d, stdout %q, stderr %q", got, stdout.String(), stderr.String())
			}
		})
	}
}
