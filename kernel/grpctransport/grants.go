package grpctransport

import "encoding/binary"

// maxLong is how many bytes of long messages of a connection may be received and worked on at a time: as many as the
// transport fast takes. A message is long if it does not fit into the window of a stream.
const maxLong = 8 << 20

// HTTP/2 frames (RFC 9113 section 4.1): the length of a header, and of a WINDOW_UPDATE with its type.
const (
	headerLen         = 9
	windowUpdateLen   = headerLen + 4
	typeWindowUpdate  = 8
	lowestStreamBytes = 5 // of a header: where the stream's identifier begins
)

// grant is a WINDOW_UPDATE that asks the peer for the rest of a long message.
type grant struct {
	stream, bytes uint32
}

func (g grant) append(dst []byte) []byte {
	dst = append(dst, 0, 0, 4, typeWindowUpdate, 0)
	dst = binary.BigEndian.AppendUint32(dst, g.stream)
	return binary.BigEndian.AppendUint32(dst, g.bytes)
}

// grants takes the WINDOW_UPDATE frames for long messages out of what grpc-go writes. grpc-go asks for the rest of each
// message as soon as a handler reads it; the connection sends these frames when it is the message's turn, so that long
// messages wait with the peer. The zero value is ready for use.
type grants struct {
	skip    int    // bytes until the next frame
	part    []byte // the beginning of a frame whose rest comes with the next write
	waiting []grant
}

// cut appends to dst what of p may be written now, and puts grants aside.
func (g *grants) cut(dst, p []byte) []byte {
	for len(p) > 0 {
		n := min(g.skip, len(p))
		g.skip -= n
		dst, p = append(dst, p[:n]...), p[n:]
		if len(p) == 0 {
			break
		}
		n = min(headerLen-len(g.part), len(p))
		if n > 0 {
			g.part, p = append(g.part, p[:n]...), p[n:]
		}
		if len(g.part) < headerLen {
			break
		}
		if g.part[3] == typeWindowUpdate {
			n = min(windowUpdateLen-len(g.part), len(p))
			g.part, p = append(g.part, p[:n]...), p[n:]
			if len(g.part) < windowUpdateLen {
				break
			}
			stream, bytes := binary.BigEndian.Uint32(g.part[lowestStreamBytes:]), binary.BigEndian.Uint32(g.part[headerLen:])
			if stream != 0 && bytes > streamWindow {
				g.waiting = append(g.waiting, grant{stream, bytes})
			} else {
				dst = append(dst, g.part...)
			}
		} else {
			g.skip = int(g.part[0])<<16 | int(g.part[1])<<8 | int(g.part[2])
			dst = append(dst, g.part...)
		}
		g.part = g.part[:0]
	}
	return dst
}

// between reports whether another frame may be written now.
func (g *grants) between() bool { return g.skip == 0 }

// write writes what grpc-go does, but for grants that have to wait.
func (c *conn) write(p []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.out = c.grants.cut(c.out[:0], p)
	return c.flush()
}

// grantNext sends grants whose turn has come.
func (c *conn) grantNext() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.out = c.out[:0]
	return c.flush()
}

// flush writes c.out, and grants whose turn has come. writing is held.
func (c *conn) flush() error {
	if len(c.grants.waiting) > 0 && c.grants.between() {
		c.mu.Lock()
		c.out = c.admit(c.out)
		c.mu.Unlock()
	}
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.out)
	return err
}

// admit appends the grants whose turn has come, in their order. Those of streams that have ended are dropped. writing
// and mu are held.
func (c *conn) admit(dst []byte) []byte {
	kept := c.grants.waiting[:0]
	for _, g := range c.grants.waiting {
		switch {
		case !c.follower.Open(g.stream):
		case len(kept) == 0 && c.follower.Granted()-c.long+int(g.bytes) <= maxLong:
			c.follower.Grant(g.stream, int(g.bytes))
			dst = g.append(dst)
		default:
			kept = append(kept, g)
		}
	}
	c.grants.waiting = kept
	c.waits.Store(len(kept) > 0)
	return dst
}
