package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/http2/hpack"
)

// Driver replays a recording on one connection, with as many streams in flight as it is told, as fast as the engine answers. It sends what Envoy sent, but for the ids of
// the streams, and does next to nothing else, so that on a small machine most of the time is the engine's. It is for one goroutine.
type Driver struct {
	// Answer, if not nil, is called with each answer: of which stream of the recording, of which of its messages. The bytes are lent.
	Answer func(stream, message int, answer []byte)

	conn      net.Conn
	recording *Recording
	buf       []byte // of what is read
	out       []byte // what is to be written
	opened    int    // streams so far
	window    int    // how much DATA the engine takes on the connection, in bytes
	unacked   int    // DATA that the engine was not given back the window for
	streams   [maxInFlight]inFlight
	trailers  map[string]bool // header blocks that were decoded, and whether they say grpc-status 0
}

// inFlight is a stream that waits for an answer.
type inFlight struct {
	id       uint32 // 0: the place is free
	recorded int
	sent     int // messages so far
}

const (
	maxInFlight = 4096
	readBuffer  = 256 << 10
	// acknowledge is after how many bytes a connection's window is given back. Envoy's is 256 MiB.
	acknowledge = 1 << 20
	// patience bounds the wait for the engine.
	patience = 20 * time.Second
	// initialWindow is a connection's (RFC 9113 section 6.9.2).
	initialWindow = 65535
)

// NewDriver speaks on conn, which stays the caller's to close.
func NewDriver(conn net.Conn, r *Recording) *Driver {
	return &Driver{
		conn: conn, recording: r, buf: make([]byte, 0, readBuffer), out: append([]byte(nil), r.Opening...),
		window: initialWindow, trailers: make(map[string]bool),
	}
}

// Run sends n requests, and returns when all of them were allowed and their streams have ended. An answer that is anything else is an error, after which the
// driver must not be used.
func (d *Driver) Run(n, streams int) error {
	streams = min(streams, maxInFlight)
	left, open := n, 0
	for left > 0 || open > 0 {
		for left > 0 && open < streams && d.open() {
			left--
			open++
		}
		ended, err := d.step()
		if err != nil {
			return fmt.Errorf("after %d streams: %w", d.opened, err)
		}
		open -= ended
	}
	return d.write()
}

// step writes what there is, reads once, and returns how many streams have ended.
func (d *Driver) step() (ended int, err error) {
	if err := d.write(); err != nil {
		return 0, err
	}
	if len(d.buf) == cap(d.buf) {
		return 0, errors.New("a frame is larger than the buffer")
	}
	n, err := d.conn.Read(d.buf[len(d.buf):cap(d.buf)])
	if err != nil {
		return 0, fmt.Errorf("read from the engine: %w", err)
	}
	rest := d.buf[:len(d.buf)+n]
	for {
		f, after, ok := nextFrame(rest)
		if !ok {
			break
		}
		end, err := d.frame(f)
		if err != nil {
			return 0, err
		}
		if end {
			ended++
		}
		rest = after
	}
	d.buf = d.buf[:copy(d.buf[:cap(d.buf)], rest)]
	return ended, nil
}

func (d *Driver) write() error {
	if len(d.out) == 0 {
		return nil
	}
	if err := d.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := d.conn.Write(d.out)
	d.out = d.out[:0]
	if err != nil {
		return fmt.Errorf("write to the engine: %w", err)
	}
	return nil
}

// open sends the beginning of the next stream, or returns false when there is no room for it now.
func (d *Driver) open() bool {
	i := d.opened
	if all := len(d.recording.Streams); i >= all {
		i = d.recording.Steady + (i-d.recording.Steady)%(all-d.recording.Steady)
	}
	r := &d.recording.Streams[i]
	id := uint32(2*d.opened + 1)
	place := d.place(id)
	if place.id != 0 || d.window < len(r.Messages[0]) {
		return false
	}
	*place = inFlight{id: id, recorded: i}
	d.opened++
	d.append(id, r.Head)
	d.message(place)
	return true
}

func (d *Driver) place(id uint32) *inFlight { return &d.streams[id/2%maxInFlight] }

// message sends the next message of a stream.
func (d *Driver) message(s *inFlight) {
	m := d.recording.Streams[s.recorded].Messages[s.sent]
	s.sent++
	d.window -= len(m) - frameHeaderLen
	d.append(s.id, m)
}

// append sends frames on a stream of another id than the one that they were recorded on.
func (d *Driver) append(id uint32, frames []byte) {
	for len(frames) > 0 {
		f, rest, _ := nextFrame(frames)
		start := len(d.out)
		d.out = append(d.out, f.b...)
		binary.BigEndian.PutUint32(d.out[start+5:], id)
		frames = rest
	}
}

// frame takes a frame of the engine's and returns whether a stream has ended with it.
func (d *Driver) frame(f frame) (ended bool, err error) {
	if f.id == 0 {
		return false, d.connectionFrame(f)
	}
	s := d.place(f.id)
	if s.id != f.id {
		return false, fmt.Errorf("frame of type %d on stream %d, which is not open", f.kind, f.id)
	}
	switch f.kind {
	case frameWindowUpdate:
		return false, nil
	case frameData:
		d.acknowledge(len(f.payload()))
		return false, d.answer(s, f)
	case frameHeaders:
		allowed, err := d.headers(f)
		if err != nil || f.flags&flagEndStream == 0 {
			return false, err
		}
		if !allowed || s.sent != len(d.recording.Streams[s.recorded].Messages) {
			return false, fmt.Errorf("stream %d ended after %d messages, grpc-status 0: %v", f.id, s.sent, allowed)
		}
		d.append(s.id, d.recording.Streams[s.recorded].Closing)
		*s = inFlight{}
		return true, nil
	default:
		return false, fmt.Errorf("frame of type %d on stream %d: % x", f.kind, f.id, f.b)
	}
}

// answer checks that a message allows the request, and sends what Envoy sent next.
func (d *Driver) answer(s *inFlight, f frame) error {
	m := f.payload()
	if len(m) <= messagePrefixLen || int(binary.BigEndian.Uint32(m[1:])) != len(m)-messagePrefixLen {
		return fmt.Errorf("an answer on stream %d is not in one DATA frame: % x", f.id, m)
	}
	m = m[messagePrefixLen:]
	// ProcessingResponse.request_headers is field 1, .response_headers 2, .immediate_response 7.
	if m[0] != byte(s.sent)<<3|2 {
		return fmt.Errorf("message %d of stream %d was not allowed: %q", s.sent, f.id, m)
	}
	if d.Answer != nil {
		d.Answer(s.recorded, s.sent-1, m)
	}
	if s.sent < len(d.recording.Streams[s.recorded].Messages) {
		d.message(s)
	}
	return nil
}

// headers tells whether a header block says grpc-status 0. Each block is decoded once by itself; one that can't be, because it needs what an earlier one has left in the
// dynamic table, is an error: then none of them could be decoded by itself.
func (d *Driver) headers(f frame) (allowed bool, err error) {
	if f.flags&flagEndHeaders == 0 {
		return false, fmt.Errorf("the headers of stream %d are not in one frame", f.id)
	}
	if allowed, known := d.trailers[string(f.payload())]; known {
		return allowed, nil
	}
	fields, err := hpack.NewDecoder(4096, nil).DecodeFull(f.payload())
	if err != nil {
		return false, fmt.Errorf("decode the headers of stream %d by themselves: %w", f.id, err)
	}
	for _, field := range fields {
		allowed = allowed || field.Name == "grpc-status" && field.Value == "0"
	}
	d.trailers[string(f.payload())] = allowed
	return allowed, nil
}

// acknowledge gives a window back.
func (d *Driver) acknowledge(n int) {
	if d.unacked += n; d.unacked >= acknowledge {
		d.out = append(d.out, 0, 0, 4, frameWindowUpdate, 0, 0, 0, 0, 0)
		d.out = binary.BigEndian.AppendUint32(d.out, uint32(d.unacked))
		d.unacked = 0
	}
}

func (d *Driver) connectionFrame(f frame) error {
	switch f.kind {
	case frameSettings:
		if f.flags&flagAck == 0 {
			d.out = append(d.out, 0, 0, 0, frameSettings, flagAck, 0, 0, 0, 0)
		}
	case framePing:
		if f.flags&flagAck == 0 {
			d.out = append(append(d.out, 0, 0, 8, framePing, flagAck, 0, 0, 0, 0), f.payload()...)
		}
	case frameWindowUpdate:
		d.window += int(binary.BigEndian.Uint32(f.payload()))
	case frameGoAway:
		return fmt.Errorf("the engine ends the connection: % x", f.payload())
	default:
		return fmt.Errorf("frame of type %d on the connection", f.kind)
	}
	return nil
}
