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

// TrySend is Send for requests that may fail.
func TrySend(address, method, target string, lines ...string) (*Response, error) {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(Timeout)); err != nil {
		return nil, err
	}
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: e2e.example\r\nConnection: close\r\n%s\r\n", method, target, joinLines(lines))
	if _, err := io.WriteString(conn, head); err != nil {
		return nil, err
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
