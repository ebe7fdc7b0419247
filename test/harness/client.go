package harness

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Response is an answer that a client got.
type Response struct {
	Status int
	Header http.Header
	Body   string
}

// String is for messages of failed tests.
func (r *Response) String() string { return fmt.Sprintf("%d %v %.500s", r.Status, r.Header, r.Body) }

// Send sends one HTTP/1.1 request as it is written: method, target and header lines ("name: value") are not changed, as they would be by net/http.
func Send(t testing.TB, address, method, target string, lines ...string) *Response {
	t.Helper()
	r, err := TrySend(address, method, target, lines...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return r
}

// SendBody is Send with a body. Its length is announced unless lines have another framing, "Transfer-Encoding: chunked": then it goes as two chunks.
func SendBody(t testing.TB, address, method, target, body string, lines ...string) *Response {
	t.Helper()
	r, err := TrySend(address, method, target, append([]string{"\x00" + body}, lines...)...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return r
}

// framed gives the header lines and the bytes of a body, which is a first line that begins with a zero byte.
func framed(lines []string) ([]string, string) {
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "\x00") {
		return lines, ""
	}
	body, rest := lines[0][1:], lines[1:]
	for _, line := range rest {
		if strings.EqualFold(line, "transfer-encoding: chunked") {
			half := len(body) / 2
			framed := ""
			for _, chunk := range []string{body[:half], body[half:]} {
				if chunk != "" {
					framed += fmt.Sprintf("%x\r\n%s\r\n", len(chunk), chunk)
				}
			}
			return rest, framed + "0\r\n\r\n"
		}
	}
	return append([]string{fmt.Sprintf("Content-Length: %d", len(body))}, rest...), body
}

// TrySend is Send for requests that may fail.
func TrySend(address, method, target string, lines ...string) (*Response, error) {
	lines, payload := framed(lines)
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(Timeout)); err != nil {
		return nil, err
	}
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: e2e.example\r\nConnection: close\r\n%s\r\n", method, target, joinLines(lines))
	if _, err := io.WriteString(conn, head+payload); err != nil && payload == "" {
		return nil, err // A body that is refused early may not be taken: there is an answer all the same.
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read the body: %w", err)
	}
	return &Response{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}, nil
}

func joinLines(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\r\n") + "\r\n"
}

func dial(address string) error {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}
