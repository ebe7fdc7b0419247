package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// crowd are connections of clients that are not Envoy. The zero value has none.
type crowd struct{ conns []net.Conn }

func (c *crowd) close() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}

// connect connects to an address from another one of this machine.
func (c *crowd) connect(from, to string) (net.Conn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
	conn, err := dialer.Dial("tcp", to)
	if err != nil {
		return nil, fmt.Errorf("connect from %s: %w", from, err)
	}
	c.conns = append(c.conns, conn)
	return conn, nil
}

// idle connects n times; every other connection speaks HTTP/2 and has no requests, the others say nothing.
func (c *crowd) idle(from, to string, n int) error {
	for i := range n {
		conn, err := c.connect(from, to)
		if err != nil {
			return err
		}
		if i%2 == 0 {
			// The kernel may have closed it.
			_, _ = io.WriteString(conn, http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		}
	}
	return nil
}

// slow connects n times; every other connection begins a request of HTTP/1.1 and does not end it.
func (c *crowd) slow(from, to string, n int) error {
	for i := range n {
		conn, err := c.connect(from, to)
		if err != nil {
			return err
		}
		if i%2 == 0 {
			_, _ = io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\nX-A: ") // The kernel may have closed it.
		}
	}
	return nil
}

// stranger is a connection that speaks HTTP/2 to the kernel's port for Envoy.
type stranger struct {
	net.Conn
	fr    *http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
	over  chan error // what ended the reading
}

// speak connects and does the handshake of HTTP/2. What comes is read and dropped.
func (c *crowd) speak(from, to string) (*stranger, error) {
	conn, err := c.connect(from, to)
	if err != nil {
		return nil, err
	}
	s := &stranger{Conn: conn, fr: http2.NewFramer(conn, nil), over: make(chan error, 1)}
	s.enc = hpack.NewEncoder(&s.block)
	_, err = io.WriteString(conn, http2.ClientPreface)
	if err := errors.Join(err, s.fr.WriteSettings(), s.fr.WriteSettingsAck()); err != nil {
		return nil, fmt.Errorf("speak HTTP/2 to the kernel: %w", err)
	}
	go func() {
		_, err := io.Copy(io.Discard, conn)
		s.over <- err
	}()
	return s, nil
}

// gone returns an error if the kernel has not ended the connection within the time.
func (s *stranger) gone(within time.Duration) error {
	select {
	case <-s.over:
		return nil
	case <-time.After(within):
		return errors.New("the kernel has not ended the connection")
	}
}

// call is the header block of a call of Envoy's.
func (s *stranger) call() []byte {
	s.block.Reset()
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", "/envoy.service.ext_proc.v3.ExternalProcessor/Process"},
		{":authority", "x"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
		{"x-policy-route", "keys"},
	} {
		_ = s.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // A buffer takes all.
	}
	return s.block.Bytes()
}

// half opens a stream and sends a part of a message of 1 MiB.
func (s *stranger) half(id uint32, part int) error {
	_ = s.SetWriteDeadline(time.Now().Add(patience))
	if err := s.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: s.call(), EndHeaders: true}); err != nil {
		return err
	}
	message := append([]byte{0, 0, 1 << 4, 0, 0}, make([]byte, part)...) // The prefix of gRPC: not compressed, 1 MiB.
	for len(message) > 0 {
		n := min(len(message), 16<<10)
		if err := s.fr.WriteData(id, false, message[:n]); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}

// frameFlood is a flood of frames of HTTP/2.
type frameFlood struct {
	name string
	// reason is what the kernel counts the end of the connection as.
	reason string
	// frame writes the nth frames of the flood.
	frame func(s *stranger, n uint32) error
}

// send sends frames until the kernel ends the connection, or there were far more than it can take for a client's.
func (f *frameFlood) send(s *stranger) {
	_ = s.SetWriteDeadline(time.Now().Add(patience))
	for n := range uint32(100_000) {
		if err := f.frame(s, n); err != nil {
			return
		}
	}
}

var frameFloods = []frameFlood{
	{"RST_STREAM", "reset_flood", func(s *stranger, n uint32) error {
		return errors.Join(
			s.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*n + 1, BlockFragment: s.call(), EndHeaders: true}),
			s.fr.WriteRSTStream(2*n+1, http2.ErrCodeCancel),
		)
	}},
	{"SETTINGS", "settings_flood", func(s *stranger, _ uint32) error { return s.fr.WriteSettings() }},
	{"PING", "ping_flood", func(s *stranger, _ uint32) error { return s.fr.WritePing(false, [8]byte{}) }},
	{"HEADERS without an end", "header_list_too_large", func(s *stranger, n uint32) error {
		// Literal fields that are not indexed.
		block := bytes.Repeat(append([]byte{0, 1, 'a', 100}, bytes.Repeat([]byte{'b'}, 100)...), 100)
		if n == 0 {
			return s.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block})
		}
		return s.fr.WriteContinuation(1, false, block)
	}},
	{"CONTINUATION", "header_list_too_large", func(s *stranger, n uint32) error {
		if n == 0 {
			return s.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
		}
		return s.fr.WriteContinuation(1, false, nil)
	}},
}
