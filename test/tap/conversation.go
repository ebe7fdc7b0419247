package tap

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/policy-engine/policy-engine/test/grammar"
)

const (
	processMethod = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
	routeMetadata = "x-policy-route"
	// maxFrame is the largest frame of HTTP/2; hpackTable is more than any peer allows here.
	maxFrame   = 1<<24 - 1
	hpackTable = 1 << 20
)

// conversation is one connection of Envoy's.
type conversation struct {
	tap           *Tap
	envoy, server net.Conn

	mu      sync.Mutex
	streams map[uint32]*stream
}

type stream struct {
	*grammar.Stream
	// What has come of messages that are not whole yet.
	fromEnvoy, fromServer []byte
	answers               int
	// mute: a falsified answer was the last that Envoy hears.
	mute bool
	// halfClosed: Envoy says nothing more.
	halfClosed bool
}

func newConversation(t *Tap, envoy, server net.Conn) *conversation {
	return &conversation{tap: t, envoy: envoy, server: server, streams: map[uint32]*stream{}}
}

func (c *conversation) close() {
	_ = c.envoy.Close()
	_ = c.server.Close()
}

// run forwards both ways until both sides have ended.
func (c *conversation) run() {
	defer c.close()
	var wait sync.WaitGroup
	wait.Go(func() { c.finish(c.forwardRequests(), c.envoy, c.server) })
	wait.Go(func() { c.finish(c.forwardAnswers(), c.server, c.envoy) })
	wait.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, s := range c.streams {
		s.ServerResets() // The connection is gone, which to Envoy is an error.
		c.forget(id, s)
	}
}

// finish passes the end of one side on to the other.
func (c *conversation) finish(err error, from, to net.Conn) {
	var unreadable *frameError
	if errors.As(err, &unreadable) {
		c.tap.unread(err)
		_, _ = io.Copy(to, from)
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok && (err == nil || errors.Is(err, io.EOF) || unreadable != nil) {
		_ = half.CloseWrite()
		return
	}
	c.close()
}

// frameError is what can't be read as HTTP/2.
type frameError struct{ err error }

func (e *frameError) Error() string { return e.err.Error() }

// reader gives frames, and the bytes that each was read from.
type reader struct {
	framer *http2.Framer
	raw    bytes.Buffer
}

func newReader(from io.Reader) *reader {
	r := &reader{}
	r.framer = http2.NewFramer(nil, io.TeeReader(from, &r.raw))
	r.framer.SetMaxReadFrameSize(maxFrame)
	r.framer.MaxHeaderListSize = 1 << 20
	r.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	r.framer.ReadMetaHeaders.SetAllowedMaxDynamicTableSize(hpackTable)
	return r
}

// next reads a frame, or as many as a header block has. A frame that is wrong for its stream only is nil.
func (r *reader) next() (http2.Frame, error) {
	r.raw.Reset()
	f, err := r.framer.ReadFrame()
	var ofStream http2.StreamError
	var ofConnection http2.ConnectionError
	switch {
	case errors.As(err, &ofStream):
		return nil, nil
	case errors.As(err, &ofConnection), errors.Is(err, http2.ErrFrameTooLarge):
		return nil, &frameError{err}
	}
	return f, err
}

// forwardRequests forwards what Envoy says. What it begins is noted before the server can answer it.
func (c *conversation) forwardRequests() error {
	in := bufio.NewReaderSize(c.envoy, 64<<10)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(in, preface); err != nil {
		return err
	}
	if _, err := c.server.Write(preface); err != nil {
		return err
	}
	frames := newReader(in)
	out := bufio.NewWriterSize(c.server, 64<<10)
	for {
		f, err := frames.next()
		if err == nil {
			c.fromEnvoy(f)
		}
		_, writeErr := out.Write(frames.raw.Bytes())
		// What came together goes together.
		if in.Buffered() == 0 || err != nil {
			writeErr = errors.Join(writeErr, out.Flush())
		}
		if err != nil {
			return err
		}
		if writeErr != nil {
			return writeErr
		}
	}
}

func (c *conversation) fromEnvoy(f http2.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		if c.streams[f.StreamID] != nil || f.PseudoValue("path") != processMethod {
			return
		}
		c.streams[f.StreamID] = &stream{Stream: c.tap.began(valueOf(f, routeMetadata))}
	case *http2.DataFrame:
		s := c.streams[f.StreamID]
		if s == nil {
			return
		}
		s.fromEnvoy = append(s.fromEnvoy, f.Data()...)
		for message := range messages(&s.fromEnvoy) {
			m := &extprocv3.ProcessingRequest{}
			if err := proto.Unmarshal(message, m); err != nil {
				c.tap.unread(fmt.Errorf("decode a ProcessingRequest: %w", err))
				continue
			}
			c.tap.counted(1)
			s.Request(m, time.Now())
		}
		if s.halfClosed = f.StreamEnded(); s.halfClosed && s.Over() {
			c.forget(f.StreamID, s)
		}
	case *http2.RSTStreamFrame:
		if s := c.streams[f.StreamID]; s != nil {
			s.EnvoyEnds(time.Now())
			c.forget(f.StreamID, s)
		}
	}
}

// forget ends the following of a stream.
func (c *conversation) forget(id uint32, s *stream) {
	c.tap.ended(s.Stream)
	delete(c.streams, id)
}

// sweep finds messages that still wait for an answer, and should not.
func (c *conversation) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for id, s := range c.streams {
		s.Check(now)
		if len(s.Violations()) > 0 {
			c.forget(id, s)
		}
	}
}

func valueOf(f *http2.MetaHeadersFrame, name string) string {
	for _, field := range f.Fields {
		if field.Name == name {
			return field.Value
		}
	}
	return ""
}

// messages cuts whole gRPC messages off the front of buf; they are valid until the next one.
func messages(buf *[]byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(*buf) >= 5 {
			n := 5 + int(binary.BigEndian.Uint32((*buf)[1:]))
			if len(*buf) < n {
				return
			}
			message := (*buf)[5:n]
			*buf = (*buf)[n:]
			if !yield(message) {
				return
			}
		}
		if len(*buf) == 0 {
			*buf = nil
		}
	}
}

// statusOf reads grpc-status; a header block without it does not end a stream.
func statusOf(f *http2.MetaHeadersFrame) (codes.Code, bool) {
	text := valueOf(f, "grpc-status")
	if text == "" {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return codes.Unknown, true
	}
	return codes.Code(n), true
}
