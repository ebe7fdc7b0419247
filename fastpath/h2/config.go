package h2

import (
	"crypto/tls"
	"net"
	"time"

	"github.com/policy-engine/policy-engine/fastpath/memory"
)

// Config are the limits of a server. The zero value of a field means its default.
type Config struct {
	MaxConcurrentStreams uint32        // per connection; 4096
	MaxHeaderListSize    uint32        // bytes as RFC 9113 section 10.5.1 counts; 64 KiB
	MaxMessageSize       int           // bytes of one gRPC message; 4 MiB
	StreamWindow         uint32        // bytes that a peer may send on one stream unacknowledged; 256 KiB
	ConnWindow           uint32        // the same for the connection; 16 MiB
	MaxSendBuffer        int           // bytes that may wait for a window, and as many for the socket; 8 MiB
	KeptSendBuffer       int           // the largest buffer, of two for the socket, that is kept for the next answers; 512 KiB
	MaxReceiveBuffer     int           // bytes of unfinished messages of a connection; 32 MiB, or twice MaxMessageSize
	MaxUnderWay          int           // bytes of long messages, and of what the owner and the socket have of the connection, from which on no more are asked for; a quarter of MaxReceiveBuffer
	MaxConnections       int           // 1024
	HandshakeTimeout     time.Duration // until the preface has arrived; 5 s
	WriteTimeout         time.Duration // of one blocking write; 20 s
	IdlePing             time.Duration // silence before a PING; 60 s. No answer for the same time again ends the connection.
	TLS                  *tls.Config   // nil: plain text with prior knowledge

	// Memory is what all connections may hold together of messages, answers and streams; nil has no bound. Streams and messages beyond it are refused with RESOURCE_EXHAUSTED, and Refused is
	// called for each. It may be nil, and is called with the connection locked.
	Memory  *memory.Budget
	Refused func()
	// Ended is called with why the server has ended a connection, one of the Reasons, and the peer's address. It may be nil.
	Ended func(reason string, peer net.Addr)

	// Panicked is called with what a receiver or handler panicked with, and the stack. The call or connection has ended with INTERNAL then; the process goes on.
	Panicked func(v any, stack []byte)
}

func (c *Config) setDefaults() {
	def := func(p *uint32, v uint32) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.MaxConcurrentStreams, 4096)
	def(&c.MaxHeaderListSize, 64<<10)
	def(&c.StreamWindow, 256<<10)
	def(&c.ConnWindow, 16<<20)
	ints := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	ints(&c.MaxMessageSize, 4<<20)
	ints(&c.MaxSendBuffer, 8<<20)
	ints(&c.KeptSendBuffer, 2*flushSize)
	ints(&c.MaxReceiveBuffer, max(32<<20, 2*c.MaxMessageSize))
	ints(&c.MaxUnderWay, c.MaxReceiveBuffer/4)
	ints(&c.MaxConnections, 1024)
	durations := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	durations(&c.HandshakeTimeout, 5*time.Second)
	durations(&c.WriteTimeout, 20*time.Second)
	durations(&c.IdlePing, time.Minute)
	c.StreamWindow, c.ConnWindow = min(c.StreamWindow, maxWindow), min(c.ConnWindow, maxWindow)
	if c.TLS != nil {
		c.TLS = c.TLS.Clone()
		c.TLS.NextProtos = []string{"h2"}
		c.TLS.MinVersion = max(c.TLS.MinVersion, tls.VersionTLS12) // RFC 9113 section 9.2
	}
}

// idleTick is how often connections are looked at.
func (c *Config) idleTick() time.Duration { return max(c.IdlePing/4, 10*time.Millisecond) }
