package h2

import (
	"encoding/binary"
	"errors"
)

// Follower watches a server's connection that another implementation of HTTP/2 serves. It reads the headers of the
// frames in both directions, applies the same limits to floods as this package does, and counts the bytes of DATA
// that open streams have received. It is not safe for concurrent use. Make one with NewFollower.
type Follower struct {
	budget  budget
	in, out cutter
	maxList int
	// maxStreams is how many streams may be open.
	maxStreams uint32
	lastID     uint32
	streams    map[uint32]followed
	// received and cost are of the DATA frames of all streams in the map: their payload, and what it takes in memory.
	received, cost int
	granted        int // by Grant, to the same streams
	// ended counts streams that the server has ended and for which the peer may still send a RST_STREAM.
	ended uint32
	// block and frames are the bytes and the CONTINUATION frames of a header block that has not ended.
	inBlock       bool
	block, frames int
	settingsSeen  bool
}

// followed is a stream that neither side has ended.
type followed struct {
	received, cost, granted int
	answered                bool
}

// maxEnded bounds Follower.ended: a peer cannot save up resets without limit.
const maxEnded = 1 << 16

// NewFollower returns the follower of a connection whose peer may send maxHeaderList bytes in a header block, and may have
// maxStreams streams open.
func NewFollower(maxHeaderList int, maxStreams uint32) *Follower {
	return &Follower{in: cutter{skip: len(preface)}, maxList: maxHeaderList, maxStreams: maxStreams, streams: make(map[uint32]followed)}
}

// Held is about how many bytes the connection holds of the DATA that open streams have received, where delivered bytes
// of it were taken by the owners of these streams.
func (f *Follower) Held(delivered int) int {
	unread := f.received - delivered
	if unread <= 0 {
		return 0
	}
	return int(int64(unread) * int64(f.cost) / int64(f.received))
}

// Open reports whether neither side has ended the stream.
func (f *Follower) Open(stream uint32) bool {
	_, open := f.streams[stream]
	return open
}

// Grant notes that n bytes were granted to an open stream, and Granted returns how many bytes were granted to all
// streams that are open.
func (f *Follower) Grant(stream uint32, n int) {
	if s, open := f.streams[stream]; open {
		s.granted += n
		f.streams[stream] = s
		f.granted += n
	}
}

// Granted is described at Grant.
func (f *Follower) Granted() int { return f.granted }

// Read takes bytes that were read from the peer. now is in nanoseconds. It returns the reason, one of Reasons, for which
// the connection has to be ended, or "".
func (f *Follower) Read(p []byte, now int64) (reason string) {
	for {
		h, rest, ok := f.in.next(p)
		if !ok {
			break
		}
		p = rest
		if reason := f.frame(h); reason != "" {
			return reason
		}
	}
	return f.judge(now)
}

func (f *Follower) judge(now int64) string {
	var flood *connError
	if errors.As(f.budget.check(now, f.maxStreams), &flood) {
		return flood.label
	}
	return ""
}

func (f *Follower) frame(h frameHeader) string {
	switch h.typ {
	case frameData:
		f.data(h)
	case frameHeaders, frameContinuation:
		return f.headers(h)
	case frameRSTStream:
		f.reset(h.streamID)
	case frameWindowUpdate:
		f.budget.windows++
	case frameSettings:
		if f.settingsSeen {
			f.budget.control += 1 + uint32(h.length/settingsUnit)
			f.budget.settings += 1 + uint32(h.length/settingsUnit)
		}
		f.settingsSeen = true
	case framePing:
		f.budget.control++
		f.budget.pings++
	default:
		f.budget.control++
	}
	return ""
}

func (f *Follower) data(h frameHeader) {
	if h.length == 0 && !h.has(flagEndStream) {
		f.budget.control++ // CVE-2019-9518: empty frames.
	}
	if s, open := f.streams[h.streamID]; open {
		cost := dataCost(h.length)
		s.received += h.length
		s.cost += cost
		f.streams[h.streamID] = s
		f.received += h.length
		f.cost += cost
	}
}

// dataCost is what the payload of a DATA frame takes in memory: grpc-go keeps short ones apart, and the others in
// buffers of a few sizes.
func dataCost(n int) int {
	switch {
	case n <= 1<<10:
		return n + 64
	case n <= 4<<10:
		return 4 << 10
	default:
		return 16 << 10
	}
}

func (f *Follower) headers(h frameHeader) string {
	if h.typ == frameHeaders {
		f.inBlock, f.block, f.frames = true, h.length, 0
		if h.streamID > f.lastID {
			f.lastID = h.streamID
			f.streams[h.streamID] = followed{}
		}
	} else {
		f.block += h.length
		f.frames++
	}
	if !f.inBlock || f.frames > maxContinuations || f.block > f.maxList {
		return ReasonHeaders
	}
	f.inBlock = !h.has(flagEndHeaders)
	return ""
}

// reset takes a RST_STREAM of the peer's.
func (f *Follower) reset(id uint32) {
	s, open := f.streams[id]
	switch {
	case open:
		if !s.answered {
			f.budget.useless++
		}
		f.drop(id, s)
	case f.ended > 0:
		f.ended--
	default:
		f.budget.control++
	}
}

func (f *Follower) drop(id uint32, s followed) {
	f.received -= s.received
	f.cost -= s.cost
	f.granted -= s.granted
	delete(f.streams, id)
}

// Write takes bytes that are written to the peer. It returns the reason for which the server itself ends the connection
// with them, or "".
func (f *Follower) Write(p []byte) (reason string) {
	for {
		h, rest, ok := f.out.next(p)
		if !ok {
			return reason
		}
		p = rest
		s, open := f.streams[h.streamID]
		switch h.typ {
		case frameData, frameHeaders:
			f.budget.answers++
			switch {
			case open && h.has(flagEndStream):
				f.budget.useful++
				f.ended = min(f.ended+1, maxEnded)
				f.drop(h.streamID, s)
			case open && !s.answered:
				s.answered = true
				f.streams[h.streamID] = s
			}
		case frameRSTStream:
			if open { // The server refuses the stream.
				f.budget.useless++
				f.ended = min(f.ended+1, maxEnded)
				f.drop(h.streamID, s)
			}
		case frameGoAway:
			if f.out.code == EnhanceYourCalm { // grpc-go ends connections so for their pings alone.
				reason = ReasonPings
			}
		}
	}
}

// cutter finds the headers of frames in a stream of bytes.
type cutter struct {
	skip   int // bytes until the next header
	header [frameHeaderLen + 8]byte
	have   int
	code   ErrCode // of the last GOAWAY
}

// next returns the next header in p, and what follows it. ok is false when p has no more.
func (c *cutter) next(p []byte) (h frameHeader, rest []byte, ok bool) {
	for {
		n := min(c.skip, len(p))
		c.skip -= n
		p = p[n:]
		if len(p) == 0 {
			return h, nil, false
		}
		want := frameHeaderLen
		if c.have >= frameHeaderLen {
			want += 8 // A GOAWAY: its code is in the first eight bytes of its payload.
		}
		n = copy(c.header[c.have:want], p)
		c.have += n
		p = p[n:]
		if c.have < want {
			return h, nil, false
		}
		h = parseFrameHeader(c.header[:])
		if h.typ == frameGoAway && h.length >= 8 && c.have == frameHeaderLen {
			continue
		}
		c.skip = h.length - (c.have - frameHeaderLen)
		c.code = NoError
		if c.have > frameHeaderLen {
			c.code = ErrCode(binary.BigEndian.Uint32(c.header[frameHeaderLen+4:]))
		}
		c.have = 0
		return h, p, true
	}
}
