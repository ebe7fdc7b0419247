// Package contentcoding reads the content-encoding header (RFC 9110 section 8.4): which codings a body has.
//
// The kernel refuses by it what no worker could decode, before any of the message is sent; workers decode by it.
package contentcoding

import (
	"bytes"
	"errors"
	"fmt"
)

// ErrUnknown is for a coding that is not one of gzip, deflate, br, zstd and identity, or too many of them.
var ErrUnknown = errors.New("unknown content coding")

// Max is how many codings a body may have, one over the other. One is usual.
const Max = 3

// Coding is one coding.
type Coding uint8

// The codings. Identity is none of them: it changes nothing.
const (
	Gzip Coding = iota + 1
	// Deflate is in the format of zlib, as RFC 9110 section 8.4.1.2 has it.
	Deflate
	Brotli
	Zstd
)

// Append appends the codings that the value of one content-encoding line names, in the order in which they were
// applied. Names compare without regard to case. It allocates only where list has no room, and for errors.
func Append(list []Coding, value []byte) ([]Coding, error) {
	for more := true; more; {
		var name []byte
		name, value, more = bytes.Cut(value, comma)
		name = bytes.Trim(name, " \t")
		if len(name) == 0 {
			continue
		}
		c, known := named(name)
		switch {
		case !known:
			return list, fmt.Errorf("%w %.40q", ErrUnknown, name)
		case c == none:
			continue
		case len(list) == Max:
			return list, fmt.Errorf("%w: more than %d of them", ErrUnknown, Max)
		}
		list = append(list, c)
	}
	return list, nil
}

// none is what identity names.
const none Coding = 0

// named returns the coding of a name.
func named(name []byte) (c Coding, known bool) {
	switch {
	case bytes.EqualFold(name, identity):
		return none, true
	case bytes.EqualFold(name, gzip), bytes.EqualFold(name, xGzip):
		return Gzip, true
	case bytes.EqualFold(name, deflate):
		return Deflate, true
	case bytes.EqualFold(name, br):
		return Brotli, true
	case bytes.EqualFold(name, zstd):
		return Zstd, true
	}
	return none, false
}

var (
	comma    = []byte{','}
	identity = []byte("identity")
	gzip     = []byte("gzip")
	xGzip    = []byte("x-gzip")
	deflate  = []byte("deflate")
	br       = []byte("br")
	zstd     = []byte("zstd")
)
