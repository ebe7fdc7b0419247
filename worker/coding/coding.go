// Package coding undoes the content codings of bodies (RFC 9110 section 8.4) and does them again, within bounds.
package coding

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
)

var (
	// ErrUnknown is for a coding that is not one of gzip, deflate, br and identity, or too many of them.
	ErrUnknown = errors.New("unknown content coding")
	// ErrMalformed is for bytes that are not what their coding says: broken, cut off, or followed by others.
	ErrMalformed = errors.New("malformed content coding")
	// ErrTooLarge is for a body that is longer than it may be once its coding is undone.
	ErrTooLarge = errors.New("body is too large without its content coding")
)

const (
	// maxCodings is how many codings a body may have, one over the other. One is usual.
	maxCodings = 3
	// maxRatio is how many times longer a body may be without its codings, where it is longer than free.
	maxRatio = 200
	// free is how long a body may be whatever its ratio, in bytes.
	free = 64 << 10
	// maxMembers is how many gzip members may follow each other (RFC 1952 section 2.2): each costs a reset of the decoder.
	maxMembers = 1024
)

// kind is one coding.
type kind uint8

const (
	gzipped  kind = iota + 1
	deflated      // in the format of zlib, as RFC 9110 section 8.4.1.2 has it
	raw           // deflate as such, which some send under that name
	brotli
)

// List is the content codings of a body, in the order in which they were applied. The zero List is no coding.
type List struct {
	kinds [maxCodings]kind
	n     int
}

// Empty reports whether the body has no coding.
func (l *List) Empty() bool { return l.n == 0 }

// Add adds the codings that a content-encoding field names.
func (l *List) Add(value []byte) error {
	for more := true; more; {
		var name []byte
		name, value, more = next(value)
		var k kind
		switch string(name) {
		case "", "identity":
			continue
		case "gzip", "x-gzip":
			k = gzipped
		case "deflate":
			k = deflated
		case "br":
			k = brotli
		default:
			return fmt.Errorf("%w %q", ErrUnknown, name)
		}
		if l.n == maxCodings {
			return fmt.Errorf("%w: more than %d of them", ErrUnknown, maxCodings)
		}
		l.kinds[l.n] = k
		l.n++
	}
	return nil
}

// benches are where coding is done: as many as there are processors, so that the memory of decoders (16 MiB for the window that a brotli body may ask for) is
// bounded by that, and not by the calls in flight.
var benches = func() chan *bench {
	c := make(chan *bench, runtime.GOMAXPROCS(0))
	for range cap(c) {
		c <- &bench{}
	}
	return c
}()

// Decode undoes the codings of a whole body. What comes out may be max bytes long. An empty body has no coding. The result is new memory, unless it is the body itself.
func (l *List) Decode(body []byte, max int) (decoded []byte, err error) {
	if l.n == 0 || len(body) == 0 {
		return body, nil
	}
	b := <-benches
	defer func() {
		// A decoder that a client's bytes get to panic must not end the worker.
		if p := recover(); p != nil {
			decoded, err, b = nil, fmt.Errorf("%w: panic: %v", ErrMalformed, p), &bench{}
		}
		benches <- b
	}()
	bound := min(max, boundOf(len(body)))
	for i := l.n - 1; i >= 0; i-- {
		if body, err = b.decode(&l.kinds[i], body, bound); err != nil {
			return nil, err
		}
	}
	return body, nil
}

// boundOf is how long a body of n bytes may be without its codings, by its ratio.
func boundOf(n int) int { return max(free, n*maxRatio) }

// Encode applies the codings again to what takes the place of a body that Decode decoded.
func (l *List) Encode(body []byte) ([]byte, error) {
	if l.n == 0 || len(body) == 0 {
		return body, nil
	}
	b := <-benches
	defer func() { benches <- b }()
	var err error
	for _, k := range l.kinds[:l.n] {
		if body, err = b.encode(k, body); err != nil {
			return nil, err
		}
	}
	return body, nil
}

// next splits a list of tokens (RFC 9110 section 5.6.1) at its first comma. Names of codings compare without regard to case.
func next(list []byte) (name, rest []byte, more bool) {
	name, rest, more = bytes.Cut(list, []byte{','})
	return bytes.ToLower(bytes.Trim(name, " \t")), rest, more
}
