// Package engine drives the whole engine, kernel and workers as the processes that they are, with the bytes that Envoy sent to it once, and measures the CPU time that
// the engine takes for a request.
package engine

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/net/http2/hpack"
)

// Types and flags of frames (RFC 9113 section 6).
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	frameRSTStream    = 0x3
	frameSettings     = 0x4
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindowUpdate = 0x8

	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4

	frameHeaderLen = 9
	// messagePrefixLen is that of gRPC: a flag and the length.
	messagePrefixLen = 5
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// frame is a frame of HTTP/2; b is all of it.
type frame struct {
	kind, flags byte
	id          uint32
	b           []byte
}

func (f frame) payload() []byte { return f.b[frameHeaderLen:] }

// nextFrame takes the first frame of b, or ok is false if it is not all there. It does not copy.
func nextFrame(b []byte) (f frame, rest []byte, ok bool) {
	if len(b) < frameHeaderLen {
		return frame{}, b, false
	}
	n := frameHeaderLen + (int(b[0])<<16 | int(b[1])<<8 | int(b[2]))
	if len(b) < n {
		return frame{}, b, false
	}
	return frame{kind: b[3], flags: b[4], id: binary.BigEndian.Uint32(b[5:]) &^ (1 << 31), b: b[:n:n]}, b[n:], true
}

// Recording is a connection of Envoy to the engine, as Envoy sent it.
type Recording struct {
	// Opening is what Envoy sends first: the preface, its SETTINGS and WINDOW_UPDATE.
	Opening []byte
	// Streams are the streams in their order, one for each request.
	Streams []RecordedStream
	// Steady is the index of the first stream from which on all header blocks are the same bytes, and meant the same each time: such a block neither changes the
	// dynamic table of HPACK nor needs more than what was in it before, so it is legal any number of times.
	Steady int
}

// RecordedStream is what Envoy sent on one stream.
type RecordedStream struct {
	// Head is the HEADERS frame.
	Head []byte
	// Messages are DATA frames of one gRPC message each; the second and later ones were sent after an answer to the one before.
	Messages [][]byte
	// Closing has the frames that came after the engine's last answer.
	Closing []byte
}

// LoadRecording reads a file of bench/recorded.
func LoadRecording(path string) (*Recording, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		return nil, fmt.Errorf("read recording %q: %w", path, err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("read recording %q: %w", path, err)
	}
	r, err := ParseRecording(b)
	if err != nil {
		return nil, fmt.Errorf("parse recording %q: %w", path, err)
	}
	return r, nil
}

// ParseRecording sorts the bytes of a connection by stream. It keeps parts of b. What concerns the connection, other than its opening, is left out: whoever
// replays it has windows and PINGs of his own. So is the last stream, which may have gone on after the end of the recording.
func ParseRecording(b []byte) (*Recording, error) {
	rest, ok := bytes.CutPrefix(b, []byte(preface))
	if !ok {
		return nil, errors.New("no preface of HTTP/2")
	}
	r := &Recording{Opening: []byte(preface)}
	index := map[uint32]int{}
	var blocks [][]byte
	for len(rest) > 0 {
		var f frame
		if f, rest, ok = nextFrame(rest); !ok {
			break // The recording ended within a frame.
		}
		switch {
		case f.id == 0:
			if len(r.Streams) == 0 && f.flags&flagAck == 0 {
				r.Opening = append(r.Opening, f.b...)
			}
		case f.kind == frameHeaders:
			if f.flags != flagEndHeaders {
				return nil, fmt.Errorf("HEADERS of stream %d have flags %#x; only END_HEADERS is understood", f.id, f.flags)
			}
			index[f.id] = len(r.Streams)
			r.Streams = append(r.Streams, RecordedStream{Head: f.b})
			blocks = append(blocks, f.payload())
		default:
			i, ok := index[f.id]
			if !ok {
				return nil, fmt.Errorf("frame of type %d on stream %d, which was not opened", f.kind, f.id)
			}
			if err := r.Streams[i].add(f); err != nil {
				return nil, err
			}
		}
	}
	if len(r.Streams) < 2 {
		return nil, errors.New("there are less than two streams")
	}
	r.Streams, blocks = r.Streams[:len(r.Streams)-1], blocks[:len(blocks)-1]
	for i := range r.Streams {
		if s := &r.Streams[i]; len(s.Messages) == 0 || len(s.Closing) == 0 {
			return nil, fmt.Errorf("stream %d of %d has %d messages and %d bytes of closing", i, len(r.Streams), len(s.Messages), len(s.Closing))
		}
	}
	var err error
	r.Steady, err = steady(blocks)
	return r, err
}

func (s *RecordedStream) add(f frame) error {
	switch {
	case f.kind == frameData && f.flags == 0 && len(s.Closing) == 0:
		if m := f.payload(); len(m) < messagePrefixLen || int(binary.BigEndian.Uint32(m[1:])) != len(m)-messagePrefixLen {
			return fmt.Errorf("a DATA frame of stream %d is not just one message", f.id)
		}
		s.Messages = append(s.Messages, f.b)
	case f.kind == frameData || f.kind == frameRSTStream:
		s.Closing = append(s.Closing, f.b...)
	case f.kind == frameWindowUpdate:
	default:
		return fmt.Errorf("frame of type %d with flags %#x on stream %d", f.kind, f.flags, f.id)
	}
	return nil
}

// steady returns the index from which on all blocks are the same and mean the same.
func steady(blocks [][]byte) (int, error) {
	decoder := hpack.NewDecoder(4096, nil) // RFC 9113 section 6.5.2: the initial value.
	first, last := 0, ""
	for i, b := range blocks {
		fields, err := decoder.DecodeFull(b)
		if err != nil {
			return 0, fmt.Errorf("decode header block %d: %w", i, err)
		}
		if now := fmt.Sprint(fields); i > 0 && (now != last || !bytes.Equal(b, blocks[i-1])) {
			first, last = i, now
		} else {
			last = now
		}
	}
	if len(blocks)-first < 2 {
		return 0, errors.New("the header blocks do not come to be the same")
	}
	return first, nil
}

// Message is a message of the stream, without gRPC's prefix.
func (s *RecordedStream) Message(i int) []byte {
	return s.Messages[i][frameHeaderLen+messagePrefixLen:]
}
