package h2

import "encoding/binary"

// Of messages that are longer than a stream's window, the peer is asked for a few at a time only, and for the others when the work on those is done: they wait with the peer, at no cost, while
// what is under way stays within Config.MaxUnderWay. A peer that does not read its answers is not asked for more either. The window of the connection is always opened, so that short messages
// never wait behind long ones.

// unreserved is the length of the message under way, with its prefix, if it needs more than the stream's window and has no reservation. 0 else.
func (s *Stream) unreserved() int {
	if s.reserved > 0 || len(s.message) < prefixLen {
		return 0
	}
	size := prefixLen + int(binary.BigEndian.Uint32(s.message[1:]))
	if size <= int(s.conn.cfg.StreamWindow) || size == len(s.message) {
		return 0
	}
	return size
}

// release gives the reservation back: the message has come, or is not wanted any more.
func (s *Stream) release() {
	s.conn.reserved -= s.reserved
	s.reserved = 0
}

// admits reports whether the peer may be asked for more: for a message of n bytes, or for as many short ones as the window lets it send. One that is longer than half of what may be under way
// counts as that half, or it would wait for ever.
func (c *Conn) admits(n int) bool {
	limit := c.cfg.MaxUnderWay
	return c.reserved+c.occupied+c.unsent()+min(n, limit/2) <= limit
}

// admitWaiting opens the windows of streams that wait for it, as far as there is room.
func (c *Conn) admitWaiting() {
	for s := c.unadmitted.first; s != nil && c.admits(s.unreserved()); s = c.unadmitted.first {
		c.unadmitted.remove(s)
		s.acknowledge()
	}
}

// Occupy notes that the owner has so many bytes more in hand, or less, of messages of the connection: what it works on, or has queued. The connection is locked, and flushed afterwards.
func (c *Conn) Occupy(n int) { c.occupied += n }
