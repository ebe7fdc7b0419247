package tap

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
)

// maxPayload is the frame size that every peer takes (RFC 9113 section 4.2).
const maxPayload = 16 << 10

// forwardAnswers forwards what the server says, and notes what of it goes on to Envoy.
func (c *conversation) forwardAnswers() error {
	in := bufio.NewReaderSize(c.server, 64<<10)
	out := bufio.NewWriterSize(c.envoy, 64<<10)
	frames := newReader(in)
	forge := newForge(c, out)
	for {
		f, err := frames.next()
		var writeErr error
		switch {
		case err != nil:
			_, writeErr = out.Write(frames.raw.Bytes())
		case c.tap.falsify != nil:
			writeErr = forge.forward(f, frames.raw.Bytes())
		default:
			c.fromServer(f)
			_, writeErr = out.Write(frames.raw.Bytes())
		}
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

// fromServer notes a frame that goes on as it is.
func (c *conversation) fromServer(f http2.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f == nil {
		return
	}
	s := c.streams[f.Header().StreamID]
	if s == nil {
		return
	}
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		if code, ends := statusOf(f); ends {
			s.ServerEnds(code, time.Now())
		}
		if s.Over() && s.halfClosed {
			c.forget(f.StreamID, s)
		}
	case *http2.DataFrame:
		s.fromServer = append(s.fromServer, f.Data()...)
		for message := range messages(&s.fromServer) {
			c.answered(s, message)
		}
	case *http2.RSTStreamFrame:
		if !s.Over() {
			s.ServerResets()
		}
	}
}

func (c *conversation) answered(s *stream, message []byte) {
	m := &extprocv3.ProcessingResponse{}
	if err := proto.Unmarshal(message, m); err != nil {
		c.tap.unread(fmt.Errorf("decode a ProcessingResponse: %w", err))
		return
	}
	s.answers++
	c.tap.counted(1)
	s.Answer(m, time.Now())
}

// forge writes the server's side anew, with falsified answers.
type forge struct {
	c      *conversation
	framer *http2.Framer
	block  bytes.Buffer
	hpack  *hpack.Encoder
}

func newForge(c *conversation, out *bufio.Writer) *forge {
	f := &forge{c: c, framer: http2.NewFramer(out, nil)}
	f.hpack = hpack.NewEncoder(&f.block)
	f.hpack.SetMaxDynamicTableSize(0) // Blocks may be left out without the next one meaning something else.
	return f
}

// forward writes a frame, whose bytes are raw, or what is to take its place.
func (g *forge) forward(frame http2.Frame, raw []byte) error {
	if frame == nil {
		return errors.New("falsify answers: the server's header block is malformed")
	}
	id := frame.Header().StreamID
	g.c.mu.Lock()
	defer g.c.mu.Unlock()
	s := g.c.streams[id]
	switch f := frame.(type) {
	case *http2.MetaHeadersFrame:
		if s != nil && s.mute {
			return nil
		}
		if code, ends := statusOf(f); ends && s != nil {
			s.ServerEnds(code, time.Now())
			if s.halfClosed {
				g.c.forget(id, s)
			}
		}
		return g.headers(id, f.StreamEnded(), f.Fields)
	case *http2.DataFrame:
		if s == nil {
			break
		}
		s.fromServer = append(s.fromServer, f.Data()...)
		for message := range messages(&s.fromServer) {
			if err := g.answer(id, s, message); err != nil {
				return err
			}
		}
		return nil
	case *http2.RSTStreamFrame:
		if s != nil && s.mute {
			return nil
		}
		if s != nil && !s.Over() {
			s.ServerResets()
		}
	}
	return g.raw(raw)
}

func (g *forge) raw(raw []byte) error {
	h := binary.BigEndian.Uint32(raw[5:9])
	return g.framer.WriteRawFrame(http2.FrameType(raw[3]), http2.Flags(raw[4]), h&(1<<31-1), raw[9:])
}

func (g *forge) headers(id uint32, end bool, fields []hpack.HeaderField) error {
	g.block.Reset()
	for _, f := range fields {
		if err := g.hpack.WriteField(f); err != nil {
			return err
		}
	}
	return g.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: g.block.Bytes(), EndStream: end, EndHeaders: true})
}

// answer forwards one answer, or what Falsify makes of it.
func (g *forge) answer(id uint32, s *stream, message []byte) error {
	if s.mute {
		return nil
	}
	m := &extprocv3.ProcessingResponse{}
	if err := proto.Unmarshal(message, m); err != nil {
		return fmt.Errorf("decode a ProcessingResponse: %w", err)
	}
	change, falsified := g.c.tap.falsify(Answer{Route: s.Route, Index: s.answers, Message: m})
	if !falsified {
		change = Change{Answers: []*extprocv3.ProcessingResponse{m}}
	}
	s.answers++
	for _, m := range change.Answers {
		s.Answer(m, time.Now())
		encoded, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		encoded = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(encoded))), encoded...)
		for len(encoded) > 0 {
			n := min(len(encoded), maxPayload)
			if err := g.framer.WriteData(id, false, encoded[:n]); err != nil {
				return err
			}
			encoded = encoded[n:]
		}
	}
	s.mute = change.Close || change.Mute
	if !change.Close {
		return nil
	}
	s.ServerEnds(0, time.Now())
	return g.headers(id, true, []hpack.HeaderField{{Name: "grpc-status", Value: "0"}})
}
