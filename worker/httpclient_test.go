package worker

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

func TestHTTPClient(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/size/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("n"))
		if r.FormValue("length") == "" {
			w.(http.Flusher).Flush() // Chunked: no content-length.
		}
		io.WriteString(w, strings.Repeat("x", n))
	})
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) })
	mux.HandleFunc("/secure", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://"+r.Host+"/", http.StatusFound)
	})
	mux.HandleFunc("/near", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/size/1", http.StatusFound) })
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("/header", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 100<<10)) })
	server := httptest.NewServer(mux)
	defer server.Close()
	client := newHTTPClient()
	defer client.CloseIdleConnections()

	tests := []struct {
		name, path string
		size       int
		want       string // of the error
	}{
		{"small", "/size/10", 10, ""},
		{"just fits", "/size/1048576", 1 << 20, ""},
		{"just fits, with length", "/size/1048576?length=1", 1 << 20, ""},
		{"too large", "/size/1048577", 0, "larger than 1 MiB"},
		{"too large, with length", "/size/1048577?length=1", 0, "larger than 1 MiB"},
		{"redirect", "/near", 1, ""},
		{"redirect to another host", "/away", 0, "redirect to another host"},
		{"redirect to another scheme", "/secure", 0, "redirect to another scheme"},
		{"redirects without end", "/loop", 0, "more than 5 redirects"},
		{"large header", "/header", 0, "header"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, err := func() (int, error) {
				resp, err := client.Get(server.URL + tt.path)
				if err != nil {
					return 0, err
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					if _, again := resp.Body.Read(make([]byte, 1)); !errors.Is(again, errLargeBody) {
						t.Errorf("after the error: %v", again)
					}
				}
				return len(body), err
			}()
			switch {
			case tt.want == "" && (err != nil || n != tt.size):
				t.Errorf("%d bytes, %v; want %d", n, err, tt.size)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}
