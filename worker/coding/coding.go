// Package coding undoes the content codings of bodies (RFC 9110 section 8.4) and does them again, within bounds.
package coding

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/policy-engine/policy-engine/fastpath/contentcoding"
)

var (
	// ErrUnknown is for a coding that is not one of gzip, deflate, br, zstd and identity, or too many of them.
	ErrUnknown = contentcoding.ErrUnknown
	// ErrMalformed is for bytes that are not what their coding says: broken, cut off, or followed by others.
	ErrMalformed = errors.New("malformed content coding")
	// ErrTooLarge is for a body that is longer than it may be once its coding is undone.
	ErrTooLarge = errors.New("body is too large without its content coding")
)

const (
	maxCodings = contentcoding.Max
	// maxRatio is how many times longer a body may be without its codings, where it is longer than free.
	maxRatio = 200
	// free is how long a body may be whatever its ratio, in bytes.
	free = 64 << 10
	// maxMembers is how many gzip members may follow each other (RFC 1952 section 2.2): each costs a reset of the decoder.
	maxMembers = 1024
)

// kind is one coding.
type kind = contentcoding.Coding

const (
	gzipped   = contentcoding.Gzip
	deflated  = contentcoding.Deflate
	brotli    = contentcoding.Brotli
	zstandard = contentcoding.Zstd
	// raw is deflate as such, which some send under that name.
	raw kind = 255
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
	kinds, err := contentcoding.Append(l.kinds[:l.n], value)
	l.n = len(kinds)
	return err
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
