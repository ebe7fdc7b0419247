package upstream

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, s *Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// exchange sends a request as it is written, in pieces, and returns the answer.
func exchange(t *testing.T, conn net.Conn, in *bufio.Reader, pieces ...string) (int, http.Header, string) {
	t.Helper()
	for _, piece := range pieces {
		if _, err := io.WriteString(conn, piece); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

// TestIdentity: what comes without its identity is refused and counted, however it tries.
func TestIdentity(t *testing.T) {
	for name, tt := range map[string]struct {
		head  string
		right bool
	}{
		"its own":              {"GET /r/alice HTTP/1.1\r\nhost: h\r\nx-user-id: alice\r\n\r\n", true},
		"a query":              {"GET /r/alice?x=/bob HTTP/1.1\r\nX-User-Id:alice\r\n\r\n", true},
		"none":                 {"GET /r/alice HTTP/1.1\r\nhost: h\r\n\r\n", false},
		"no header at all":     {"GET /r/alice HTTP/1.1\r\n\r\n", false},
		"empty":                {"GET /r/alice HTTP/1.1\r\nx-user-id: \r\n\r\n", false},
		"empty on both sides":  {"GET / HTTP/1.1\r\nhost: h\r\n\r\n", false},
		"another's":            {"GET /r/alice HTTP/1.1\r\nx-user-id: bob\r\n\r\n", false},
		"a longer one":         {"GET /r/alice HTTP/1.1\r\nx-user-id: alice2\r\n\r\n", false},
		"two":                  {"GET /r/alice HTTP/1.1\r\nx-user-id: bob\r\nx-user-id: alice\r\n\r\n", false},
		"the same twice":       {"GET /r/alice HTTP/1.1\r\nx-user-id: alice\r\nx-user-id: alice\r\n\r\n", false},
		"in another header":    {"GET /r/alice HTTP/1.1\r\nx-user-id-2: alice\r\n\r\n", false},
		"in a value":           {"GET /r/alice HTTP/1.1\r\nx: x-user-id: alice\r\n\r\n", false},
		"in the query alone":   {"GET /r/alice?x-user-id: alice HTTP/1.1\r\nhost: h\r\n\r\n", false},
		"with a body":          {"POST /r/alice HTTP/1.1\r\nx-user-id: alice\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n", false},
		"with an announcement": {"POST /r/alice HTTP/1.1\r\nx-user-id: alice\r\ncontent-length: 5\r\n\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Server{Header: "x-user-id"}
			conn, err := net.Dial("tcp", start(t, s))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			in := bufio.NewReader(conn)
			half := len(tt.head) / 2
			status, header, body := exchange(t, conn, in, tt.head[:half], tt.head[half:])
			want := Count{Wrong: 1}
			wantStatus := http.StatusBadGateway
			if tt.right {
				want, wantStatus = Count{Right: 1}, http.StatusOK
				if header.Get("x-identity") != "alice" {
					t.Errorf("the answer tells %v", header)
				}
			}
			if status != wantStatus {
				t.Errorf("status %d %q, want %d", status, body, wantStatus)
			}
			status, _, body = exchange(t, conn, in, "GET "+CountPath+" HTTP/1.1\r\n\r\n")
			var got Count
			if err := json.Unmarshal([]byte(body), &got); err != nil || status != http.StatusOK {
				t.Fatalf("the count is %d %q: %v", status, body, err)
			}
			if first := got.First; (first == "") != tt.right {
				t.Errorf("the first wrong one is %q", first)
			}
			if got.First = ""; got != want {
				t.Errorf("counted %+v, want %+v", got, want)
			}
		})
	}
}

func TestNoIdentityAsked(t *testing.T) {
	s := &Server{}
	conn, err := net.Dial("tcp", start(t, s))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for range 3 {
		if status, _, _ := exchange(t, conn, in, "GET /r/alice HTTP/1.1\r\n\r\n"); status != http.StatusOK {
			t.Errorf("status %d", status)
		}
	}
	if got := s.Count(); got.Right != 3 || got.Wrong != 0 {
		t.Errorf("counted %+v", got)
	}
}

func TestHeadTooLong(t *testing.T) {
	conn, err := net.Dial("tcp", start(t, &Server{}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() { _, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nx: "+strings.Repeat("a", maxHead)+"\r\n\r\n") }()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
}
