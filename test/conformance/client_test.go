package conformance

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

// exchange sends the scenario's request and returns what the client saw.
func (r *run) exchange() *message {
	start := time.Now()
	var m *message
	var err error
	switch r.s.protocol {
	case http2, grpcOver, https:
		m, err = r.overHTTP2(r.s.send)
	default:
		m, err = r.overHTTP1(r.s.send)
	}
	if err != nil {
		r.errorf("send the request: %v", err)
		return &message{broken: err, header: http.Header{}}
	}
	m.took = time.Since(start)
	return m
}

// head is a request's first lines over HTTP/1.1, as they are written.
func (r *run) head(s send, more ...string) string {
	method, target := s.method, s.raw
	if method == "" {
		method = http.MethodGet
	}
	if target == "" {
		target = "/" + r.route + s.target
	}
	lines := append([]string{method + " " + target + " HTTP/1.1", "Host: conformance.example", scenarioHeader + ": " + r.s.name}, s.lines...)
	return strings.Join(append(lines, more...), "\r\n") + "\r\n\r\n"
}

// framed is a body over HTTP/1.1: in two chunks, or with its length.
func framed(s send) (line, body string) {
	switch {
	case s.chunked:
		half := len(s.body) / 2
		for _, chunk := range []string{s.body[:half], s.body[half:]} {
			if chunk != "" {
				body += fmt.Sprintf("%x\r\n%s\r\n", len(chunk), chunk)
			}
		}
		return "Transfer-Encoding: chunked", body + "0\r\n\r\n"
	case s.body != "" || s.method == http.MethodPost:
		return fmt.Sprintf("Content-Length: %d", len(s.body)), s.body
	}
	return "X-No-Body: 1", ""
}

// dial connects to Envoy for a conversation over HTTP/1.1.
func (r *run) dial() (net.Conn, *bufio.Reader, error) {
	conn, err := net.DialTimeout("tcp", r.e.listen, 5*time.Second)
	if err != nil {
		return nil, nil, err
	}
	return conn, bufio.NewReader(conn), conn.SetDeadline(time.Now().Add(harness.Timeout))
}

func (r *run) overHTTP1(s send) (*message, error) {
	conn, in, err := r.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	line, body := framed(s)
	if _, err := io.WriteString(conn, r.head(s, "Connection: close", line)); err != nil {
		return nil, err
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(conn, body) // One that is refused early may not be taken: there is an answer all the same.
	}()
	m, err := readResponse(in, s.method)
	_ = conn.Close()
	<-sent
	return m, err
}

// readResponse reads responses until the final one.
func readResponse(in *bufio.Reader, method string) (*message, error) {
	m := &message{}
	for {
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return nil, fmt.Errorf("read the response: %w", err)
		}
		if resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			m.interim = append(m.interim, resp.StatusCode)
			continue
		}
		m.take(resp)
		return m, nil
	}
}

// take reads a response; its body, too, unless the protocol changes.
func (m *message) take(resp *http.Response) {
	m.status, m.header, m.protocol = resp.StatusCode, resp.Header, resp.Proto
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	m.body, m.broken, m.trailer = string(body), err, resp.Trailer
}

// newTransport is a connection pool of a scenario's own.
func (r *run) newTransport() *http.Transport {
	transport := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	if r.s.protocol == https {
		transport.TLSClientConfig = &tls.Config{RootCAs: r.e.roots, ServerName: "conformance.example"}
		transport.Protocols.SetHTTP2(true)
	} else {
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	return transport
}

func (r *run) url(s send) string {
	target := s.raw
	if target == "" {
		target = "/" + r.route + s.target
	}
	if r.s.protocol == https {
		return "https://" + r.e.tlsListen + target
	}
	return "http://" + r.e.listen + target
}

func (r *run) overHTTP2(s send) (*message, error) {
	transport := r.newTransport()
	defer transport.CloseIdleConnections()
	method := s.method
	if method == "" {
		method = http.MethodGet
	}
	var body io.Reader
	if s.body != "" || s.chunked {
		body = strings.NewReader(s.body)
	}
	if s.chunked {
		body = struct{ io.Reader }{body} // Hides its length.
	}
	m := &message{}
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
		m.interim = append(m.interim, code)
		return nil
	}}
	ctx, cancel := context.WithTimeout(httptrace.WithClientTrace(context.Background(), trace), harness.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, r.url(s), body)
	if err != nil {
		return nil, err
	}
	req.Host = "conformance.example"
	req.Header.Set(scenarioHeader, r.s.name)
	for _, line := range s.lines {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	if len(s.trailers) > 0 {
		req.Trailer = http.Header{}
		for _, line := range s.trailers {
			name, value, _ := strings.Cut(line, ": ")
			req.Trailer.Add(name, value)
		}
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, errors.Join(err, errors.New("there was no answer"))
		}
		m.broken, m.header = err, http.Header{}
		return m, nil
	}
	m.take(resp)
	return m, nil
}
