package h2

import "slices"

// memo remembers what header blocks decode to. Envoy sends the same bytes for every stream of a route once its HPACK table is warm: :path goes as a literal that
// is not indexed, all else as references to the table. Decoding them costs several times what finding them does.
//
// A block is remembered only if decoding it leaves the HPACK table as it is, and all are forgotten when the table may have changed: so the same bytes mean
// the same fields (RFC 7541 section 2.2).
type memo struct {
	requests map[string]*Request
}

const (
	// maxMemo is how many blocks a connection remembers.
	maxMemo = 64
	// maxMemoBlock and maxMemoSize bound what one of them takes, in bytes: the block, and what it decodes to, as Request.size counts it.
	maxMemoBlock = 1 << 10
	maxMemoSize  = 4 << 10
)

// get returns the request that the block decodes to, or nil. It belongs to the memo and is not changed.
func (m *memo) get(block []byte) *Request { return m.requests[string(block)] }

// decoded is called after a block was decoded to r.
func (m *memo) decoded(block []byte, r *Request) {
	if changesTable(block) {
		clear(m.requests)
		return
	}
	if r.malformed != "" || r.tooLarge || r.size > maxMemoSize || len(block) > maxMemoBlock {
		return
	}
	if m.requests == nil {
		m.requests = make(map[string]*Request)
	}
	if len(m.requests) >= maxMemo {
		clear(m.requests)
	}
	kept := *r
	kept.fields = slices.Clone(r.fields)
	m.requests[string(block)] = &kept
}

// changesTable reports whether decoding the block may change the HPACK table: whether it has a literal with incremental indexing or a size update (RFC 7541
// sections 6.2.1 and 6.3). What can't be parsed counts as a change.
func changesTable(block []byte) bool {
	for len(block) > 0 {
		ok := false
		switch b := block[0]; {
		case b&0x80 != 0: // Indexed.
			_, block, ok = readHpackInt(block, 7)
		case b&0xc0 == 0x40, b&0xe0 == 0x20:
			return true
		default: // Literal without indexing, or never indexed.
			var index uint64
			index, block, ok = readHpackInt(block, 4)
			if ok && index == 0 {
				block, ok = skipHpackString(block)
			}
			if ok {
				block, ok = skipHpackString(block)
			}
		}
		if !ok {
			return true
		}
	}
	return false
}

// readHpackInt reads an integer with a prefix of n bits (RFC 7541 section 5.1).
func readHpackInt(b []byte, n uint) (value uint64, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	limit := uint64(1)<<n - 1
	value = uint64(b[0]) & limit
	b = b[1:]
	if value < limit {
		return value, b, true
	}
	for shift := uint(0); len(b) > 0 && shift < 32; shift += 7 {
		c := b[0]
		b = b[1:]
		value += uint64(c&0x7f) << shift
		if c&0x80 == 0 {
			return value, b, true
		}
	}
	return 0, nil, false
}

// skipHpackString skips a string (RFC 7541 section 5.2).
func skipHpackString(b []byte) (rest []byte, ok bool) {
	n, b, ok := readHpackInt(b, 7)
	if !ok || n > uint64(len(b)) {
		return nil, false
	}
	return b[n:], true
}
