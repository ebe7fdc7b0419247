package extproc

// body is the body, or the chunk of it, under way. Its bytes are the machine's, or lent to it (Machine.Lend).
type body struct {
	// message is what came. Policies are given it as a whole, or one piece after the other: the one under way is from begin to end of it.
	message    []byte
	begin, end int
	// bytes are the piece, or what the policies before have made of it, if replaced says so.
	bytes    []byte
	replaced bool
	// edited: the pieces before are not as they came. What has become of them is in Machine.edited.
	edited bool
	whole  bool
	none   bool
	last   bool // the body ends with the message
	// counted is what the budget has given for it.
	counted int
}

// maxPiece is the most of a chunk that policies are given at a time, in bytes. Envoy sends as one chunk what has come while it waited for the answer to the headers: as much
// as its buffer takes. That is no reason to refuse it, nor should each worker have to hold that much.
const maxPiece = 64 << 10

// nextPiece makes the next piece of the chunk the one under way.
func (m *Machine) nextPiece() {
	b := &m.body
	b.begin = b.end
	b.end = min(len(b.message), b.begin+min(maxPiece, m.table.Terms().MaxBodySize))
	b.bytes, b.replaced = b.message[b.begin:b.end], false
}

// lastPiece reports whether the body ends with the piece under way.
func (b *body) lastPiece() bool { return b.last && b.end == len(b.message) }

// pieceDone notes what has become of the piece under way. It reports whether that was the last one of the message; then bytes and replaced are of all of it.
func (m *Machine) pieceDone() bool {
	b := &m.body
	// Fast path: there is but one.
	if b.begin == 0 && b.end == len(b.message) {
		return true
	}
	if b.replaced && !b.edited {
		b.edited = true
		m.edited = append(m.edited[:0], b.message[:b.begin]...)
	}
	if b.edited {
		m.edited = append(m.edited, b.bytes...)
	}
	if b.end < len(b.message) {
		return false
	}
	if b.edited {
		b.bytes, b.replaced = m.edited, true
	}
	return true
}

// grow counts what the body takes besides the message itself. It reports whether there is room.
func (m *Machine) grow() bool {
	b := &m.body
	size := len(b.message) + len(b.bytes)
	if b.edited {
		size += len(m.edited)
	}
	if size <= b.counted {
		return true
	}
	if !m.settings.Bodies.Take(size - b.counted) {
		return false
	}
	b.counted = size
	return true
}
