package closedloop

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"
)

// bufferSize is the largest answer, in bytes.
const bufferSize = 16 << 10

// conn is a connection with one request under way at most.
type conn struct {
	fd       int
	buf      []byte
	filled   int // of buf
	request  int // its index
	sent     time.Time
	awaiting bool
}

// connect makes the connection, after closing the one that was there.
func (g *generator) connect(i int) error {
	c := &g.conns[i]
	if c.fd >= 0 {
		_ = syscall.Close(c.fd)
		c.fd = -1
	}
	if c.buf == nil {
		c.buf = make([]byte, bufferSize)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	c.fd = fd
	to := &syscall.SockaddrInet4{Port: int(g.load.Target.Port()), Addr: g.load.Target.Addr().As4()}
	if err := syscall.Connect(fd, to); err != nil {
		return fmt.Errorf("connect to %v: %w", g.load.Target, err)
	}
	err = errors.Join(
		syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1),
		syscall.SetNonblock(fd, true),
		// The kernel hands the last field back with each event: it is the connection's index.
		syscall.EpollCtl(g.poll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd), Pad: int32(i)}),
	)
	if err != nil {
		return fmt.Errorf("prepare the connection to %v: %w", g.load.Target, err)
	}
	return nil
}

func (g *generator) close() {
	for i := range g.conns {
		if fd := g.conns[i].fd; fd >= 0 {
			_ = syscall.Close(fd)
		}
	}
	_ = syscall.Close(g.poll)
}

// answer is what is looked at of an answer. head is valid as long as the connection's buffer.
type answer struct {
	status int
	head   []byte
	close  bool
}

var (
	endOfHead     = []byte("\r\n\r\n")
	contentLength = []byte("\r\ncontent-length: ")
	connClose     = []byte("\r\nconnection: close\r\n")
)

// parse reads an HTTP/1.1 answer as Envoy writes it (names in small letters), with content-length. whole is false while some of it is missing.
func parse(b []byte) (a answer, whole bool, err error) {
	end := bytes.Index(b, endOfHead)
	if end < 0 {
		return answer{}, false, nil
	}
	a.head = b[:end+2]
	if len(a.head) < len("HTTP/1.1 200") || string(a.head[:9]) != "HTTP/1.1 " {
		return answer{}, false, fmt.Errorf("%.100q is not HTTP/1.1", a.head)
	}
	for _, c := range a.head[9:12] {
		if c < '0' || c > '9' {
			return answer{}, false, fmt.Errorf("%.100q has no status", a.head)
		}
		a.status = 10*a.status + int(c-'0')
	}
	i := bytes.Index(a.head, contentLength)
	if i < 0 {
		return answer{}, false, fmt.Errorf("%.1000q has no content-length", a.head)
	}
	digits := a.head[i+len(contentLength):]
	length, err := strconv.ParseUint(string(digits[:bytes.IndexByte(digits, '\r')]), 10, 31)
	if err != nil {
		return answer{}, false, fmt.Errorf("%.1000q has a wrong content-length", a.head)
	}
	size := len(a.head) + 2 + int(length)
	if len(b) > size {
		return answer{}, false, fmt.Errorf("%d bytes after the answer", len(b)-size)
	}
	a.close = bytes.Contains(a.head, connClose)
	return a, len(b) == size, nil
}
