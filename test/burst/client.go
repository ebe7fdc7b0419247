package burst

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// client is a connection of HTTP/2 that sends a request on each of its streams, once. It costs less than net/http, which
// would compete with the engine for the processors.
type client struct {
	conn net.Conn
	// ended is called once for each request when its outcome is known.
	ended func(request int, o Outcome)
	check func(name, value string) bool

	mu      sync.Mutex
	out     *bufio.Writer
	framer  *http2.Framer
	block   strings.Builder
	encoder *hpack.Encoder
	next    uint32
	streams map[uint32]*exchange
	failure string // why the connection ended; empty while it is open
}

// exchange is a request without an outcome.
type exchange struct {
	request int
	status  string
	reason  string // value of ReasonHeader
	passed  bool   // a field of the response passed the check
	body    []byte
}

const (
	dialTimeout  = 10 * time.Second
	writeTimeout = 30 * time.Second
	// bodyKept is how many bytes of the body of a refusal are read.
	bodyKept = 256
)

func dial(address string, check func(name, value string) bool, ended func(int, Outcome)) (*client, error) {
	conn, err := net.DialTimeout("tcp", address, dialTimeout)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	c := &client{conn: conn, ended: ended, check: check, out: bufio.NewWriterSize(conn, 16<<10), next: 1, streams: map[uint32]*exchange{}}
	c.framer = http2.NewFramer(c.out, bufio.NewReaderSize(conn, 16<<10))
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.encoder = hpack.NewEncoder(&c.block)
	_, _ = c.out.WriteString(http2.ClientPreface) // The error stays with the writer, and Flush returns it.
	_ = c.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	if err := c.out.Flush(); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("begin a connection: %w", err)
	}
	go c.read()
	return c, nil
}

// send writes a request into the buffer; flush sends it.
func (c *client) send(request int, fields []hpack.HeaderField) {
	c.mu.Lock()
	if c.failure != "" {
		failure := c.failure
		c.mu.Unlock()
		c.ended(request, Outcome{By: ByConnection, Reason: failure})
		return
	}
	defer c.mu.Unlock()
	c.block.Reset()
	for _, f := range fields {
		_ = c.encoder.WriteField(f) // A strings.Builder takes everything.
	}
	c.streams[c.next] = &exchange{request: request}
	_ = c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: c.next, BlockFragment: []byte(c.block.String()), EndStream: true, EndHeaders: true,
	})
	c.next += 2
}

func (c *client) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if c.out.Flush() != nil {
		_ = c.conn.Close() // read reports it.
	}
}

// read reads answers until the connection ends.
func (c *client) read() {
	for {
		f, err := c.framer.ReadFrame()
		if se, ok := err.(http2.StreamError); ok {
			c.end(se.StreamID, "malformed response")
			continue
		}
		if err != nil {
			c.fail(err.Error())
			return
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			c.headers(f)
		case *http2.DataFrame:
			c.mu.Lock()
			if e := c.streams[f.StreamID]; e != nil && len(e.body) < bodyKept {
				e.body = append(e.body, f.Data()[:min(len(f.Data()), bodyKept-len(e.body))]...)
			}
			c.mu.Unlock()
			if f.StreamEnded() {
				c.end(f.StreamID, "")
			}
		case *http2.RSTStreamFrame:
			c.end(f.StreamID, f.ErrCode.String())
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.reply(c.framer.WriteSettingsAck)
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				data := f.Data
				c.reply(func() error { return c.framer.WritePing(true, data) })
			}
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo {
				c.fail("GOAWAY " + f.ErrCode.String())
				return
			}
		}
	}
}

func (c *client) reply(write func() error) {
	c.mu.Lock()
	_ = write()
	c.mu.Unlock()
	c.flush()
}

func (c *client) headers(f *http2.MetaHeadersFrame) {
	c.mu.Lock()
	if e := c.streams[f.StreamID]; e != nil {
		if status := f.PseudoValue("status"); status != "" {
			e.status = status
		}
		for _, field := range f.RegularFields() {
			if field.Name == ReasonHeader {
				e.reason = field.Value
			}
			e.passed = e.passed || c.check != nil && c.check(field.Name, field.Value)
		}
	}
	c.mu.Unlock()
	if f.StreamEnded() {
		c.end(f.StreamID, "")
	}
}

// end ends a stream: with its answer, or because of a reset.
func (c *client) end(stream uint32, reset string) {
	c.mu.Lock()
	e := c.streams[stream]
	delete(c.streams, stream)
	c.mu.Unlock()
	if e == nil {
		return
	}
	o := outcomeOf(e.status, e.reason, e.body)
	switch {
	case reset != "":
		o = Outcome{Status: e.status, By: ByReset, Reason: reset}
	case o.answered() && c.check != nil && !e.passed:
		o.Reason = uncheckedResponse
	}
	c.ended(e.request, o)
}

// fail ends all streams, because the connection has ended.
func (c *client) fail(reason string) {
	_ = c.conn.Close()
	c.mu.Lock()
	c.failure = reason
	left := c.streams
	c.streams = map[uint32]*exchange{}
	c.mu.Unlock()
	for _, e := range left {
		c.ended(e.request, Outcome{By: ByConnection, Reason: reason})
	}
}

// close ends the connection.
func (c *client) close() { _ = c.conn.Close() }
