// Package upstream answers requests as cheaply as it can, and sees that each one tells whose it is.
package upstream

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
)

// CountPath is where the upstream tells what it has seen.
const CountPath = "/upstream/count"

// Count is what an upstream has seen.
type Count struct {
	Right uint64 `json:"right"` // requests that were answered with 200
	Wrong uint64 `json:"wrong"` // requests without the identity that they have to have, or with another
	First string `json:"first"` // the first wrong one
}

// Server checks that the last segment of a request's path is its identity, in Header.
type Server struct {
	// Header has the identity, in small letters. Without it, no identity is asked for.
	Header string

	right, wrong atomic.Uint64
	mu           sync.Mutex
	first        string
}

// maxHead bounds a request's head, in bytes.
const maxHead = 64 << 10

// Serve serves until the context ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept a connection: %w", err)
		}
		go s.serve(conn)
	}
}

// request is what is looked at of a request.
type request struct {
	path, identity []byte
	identities     int // how many there are
	body           bool
}

func (s *Server) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReaderSize(conn, maxHead)
	var out []byte
	for {
		head, err := readHead(in)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"))
			}
			return
		}
		out = s.answer(out[:0], s.parse(head))
		if _, err := in.Discard(len(head)); err != nil {
			return
		}
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

// readHead waits for a whole head and leaves it in the buffer.
func readHead(in *bufio.Reader) ([]byte, error) {
	for n := 1; ; n = in.Buffered() + 1 {
		if n > maxHead {
			return nil, errors.New("the head is too long")
		}
		if _, err := in.Peek(n); err != nil {
			return nil, err
		}
		b, _ := in.Peek(in.Buffered())
		if end := bytes.Index(b, []byte("\r\n\r\n")); end >= 0 {
			return b[:end+4], nil
		}
	}
}

func (s *Server) parse(head []byte) request {
	var r request
	line, rest, _ := bytes.Cut(head, []byte("\r\n"))
	if _, target, ok := bytes.Cut(line, []byte(" ")); ok {
		r.path, _, _ = bytes.Cut(target, []byte(" "))
		r.path, _, _ = bytes.Cut(r.path, []byte("?"))
	}
	for len(rest) > 2 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case s.Header != "" && len(name) == len(s.Header) && bytes.EqualFold(name, []byte(s.Header)):
			r.identity = bytes.TrimSpace(value)
			r.identities++
		case bytes.EqualFold(name, []byte("transfer-encoding")),
			bytes.EqualFold(name, []byte("content-length")) && !bytes.Equal(bytes.TrimSpace(value), []byte("0")):
			r.body = true
		}
	}
	return r
}

func (s *Server) answer(out []byte, r request) []byte {
	if string(r.path) == CountPath {
		text, err := json.Marshal(s.Count())
		if err != nil {
			text = []byte("{}")
		}
		return fmt.Appendf(out, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", len(text), text)
	}
	want := r.path[bytes.LastIndexByte(r.path, '/')+1:]
	switch {
	case r.body:
		return s.refuse(out, "a request with a body, for which this upstream is not made")
	case s.Header == "":
	case r.identities != 1:
		return s.refuse(out, fmt.Sprintf("%s: %d identities", r.path, r.identities))
	case !bytes.Equal(r.identity, want):
		return s.refuse(out, fmt.Sprintf("%s: the identity is %q", r.path, r.identity))
	}
	s.right.Add(1)
	out = append(out, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n"...)
	if s.Header != "" {
		out = append(out, "x-identity: "...)
		out = append(out, r.identity...)
		out = append(out, "\r\n"...)
	}
	return append(out, "\r\nok\n"...)
}

func (s *Server) refuse(out []byte, why string) []byte {
	s.wrong.Add(1)
	s.mu.Lock()
	if s.first == "" {
		s.first = why
	}
	s.mu.Unlock()
	out = append(out, "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/plain\r\ncontent-length: "...)
	out = strconv.AppendInt(out, int64(len(why)), 10)
	return append(append(out, "\r\n\r\n"...), why...)
}

// Count is what was seen so far.
func (s *Server) Count() Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Count{Right: s.right.Load(), Wrong: s.wrong.Load(), First: s.first}
}
