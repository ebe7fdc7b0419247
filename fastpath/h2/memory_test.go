package h2

import (
	"net"
	"time"
)

// discardConn takes everything and has nothing to read.
type discardConn struct{}

func (discardConn) Read([]byte) (int, error)         { return 0, net.ErrClosed }
func (discardConn) Write(b []byte) (int, error)      { return len(b), nil }
func (discardConn) Close() error                     { return nil }
func (discardConn) LocalAddr() net.Addr              { return nil }
func (discardConn) RemoteAddr() net.Addr             { return nil }
func (discardConn) SetDeadline(time.Time) error      { return nil }
func (discardConn) SetReadDeadline(time.Time) error  { return nil }
func (discardConn) SetWriteDeadline(time.Time) error { return nil }

// memoryConn is a connection of a server past its handshake, without a socket: tests hand it frames with step, and find the answers in out.
func memoryConn(cfg Config, h Handler) *Conn {
	srv := NewServer(cfg, h)
	c := newConn(srv, &srv.cfg, discardConn{})
	b := append([]byte(preface), rawFrame(frameSettings, 0, 0, nil)...)
	b = append(b, rawFrame(frameSettings, flagAck, 0, nil)...)
	if _, _, err := c.step(b); err != nil {
		panic(err) // The handshake is right.
	}
	c.out = c.out[:0]
	return c
}
