package coding

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"math/bits"

	andybalholm "github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// The levels are between speed and size: a client or upstream waits.
const (
	deflateLevel = 4
	brotliLevel  = 4
	zstdLevel    = zstd.SpeedFastest
)

// zstdWindow is the longest window that zstd may have as a content coding (RFC 9659 section 3), in bytes.
const zstdWindow = 8 << 20

// bench is the tools of one who codes. They are made when they are needed, and kept; those of brotli and zstd are not, because of
// their size.
type bench struct {
	gzipReader  *gzip.Reader
	zlibReader  io.ReadCloser
	flateReader io.ReadCloser
	gzipWriter  *gzip.Writer
	zlibWriter  *zlib.Writer
	flateWriter *flate.Writer
}

// decode undoes one coding. It notes where deflate is not in zlib's format.
func (b *bench) decode(k *kind, body []byte, bound int) (out []byte, err error) {
	src := bytes.NewReader(body)
	switch *k {
	case gzipped:
		out, err = b.gunzip(src, bound)
	case deflated:
		if !hasZlibHeader(body) {
			*k = raw
			return b.decode(k, body, bound)
		}
		if looksRaw(body) {
			// Slow path, for one body of 65536: it may be made so that two readers of it see two bodies.
			if _, err := b.inflate(bytes.NewReader(body), bound); err == nil || errors.Is(err, ErrTooLarge) {
				return nil, fmt.Errorf("%w: deflate: it can be read in two ways", ErrMalformed)
			}
		}
		out, err = b.inflateZlib(src, bound)
	case raw:
		out, err = b.inflate(src, bound)
	case brotli:
		out, err = read(nil, andybalholm.NewReader(src), bound, guess(src))
	case zstandard:
		out, err = unzstd(src, bound)
	default:
		panic("coding that is not one")
	}
	switch {
	case err != nil:
		return nil, err
	case src.Len() > 0:
		return nil, fmt.Errorf("%w: %d bytes follow its end", ErrMalformed, src.Len())
	}
	return out, nil
}

// gunzip reads all members.
func (b *bench) gunzip(src *bytes.Reader, bound int) (out []byte, err error) {
	if b.gzipReader == nil {
		b.gzipReader = new(gzip.Reader)
	}
	size := guess(src)
	for range maxMembers {
		if reservedFlags(src) {
			return nil, fmt.Errorf("%w: gzip: a member has reserved flags", ErrMalformed)
		}
		if err := b.gzipReader.Reset(src); err != nil {
			return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
		}
		b.gzipReader.Multistream(false)
		if out, err = read(out, b.gzipReader, bound, size); err != nil || src.Len() == 0 {
			return out, err
		}
	}
	return nil, fmt.Errorf("%w: gzip: more than %d members", ErrMalformed, maxMembers)
}

// reservedFlags reports whether the gzip member that begins here has flags that RFC 1952 section 2.3.1.2 reserves: they may mean
// that fields follow which this reader does not know. Package gzip does not look at them.
func reservedFlags(src *bytes.Reader) bool {
	var header [4]byte // ID1, ID2, CM, FLG
	n, _ := src.ReadAt(header[:], src.Size()-int64(src.Len()))
	return n == len(header) && header[3]&0xe0 != 0
}

func (b *bench) inflateZlib(src *bytes.Reader, bound int) ([]byte, error) {
	var err error
	if b.zlibReader == nil {
		b.zlibReader, err = zlib.NewReader(src)
	} else {
		err = b.zlibReader.(zlib.Resetter).Reset(src, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return read(nil, b.zlibReader, bound, guess(src))
}

func (b *bench) inflate(src *bytes.Reader, bound int) ([]byte, error) {
	if b.flateReader == nil {
		b.flateReader = flate.NewReader(src)
	} else if err := b.flateReader.(flate.Resetter).Reset(src, nil); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return read(nil, b.flateReader, bound, guess(src))
}

// unzstd reads all frames. Frames that need a dictionary, and windows that are longer than zstdWindow, are refused.
func unzstd(src *bytes.Reader, bound int) ([]byte, error) {
	r, err := zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow),
		zstd.WithDecoderMaxMemory(uint64(max(bound, zstdWindow))))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	defer r.Close()
	return read(nil, r, bound, guess(src))
}

// guess is about how long what is read will be.
func guess(src *bytes.Reader) int { return 4*src.Len() + 512 }

// read appends all of r to out, which grows to bound and one byte at most.
func read(out []byte, r io.Reader, bound, size int) ([]byte, error) {
	for {
		if len(out) == cap(out) {
			grown := make([]byte, len(out), min(max(2*cap(out), size), bound+1))
			copy(grown, out)
			out = grown
		}
		n, err := r.Read(out[len(out):cap(out)])
		out = out[:len(out)+n]
		switch {
		case len(out) > bound:
			return nil, ErrTooLarge
		case err == io.EOF:
			return out, nil
		case err != nil:
			return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
		}
	}
}

// encode applies one coding.
func (b *bench) encode(k kind, body []byte) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(len(body)/2 + 512)
	w, err := b.writer(k, &out, len(body))
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(body); err != nil {
		return nil, fmt.Errorf("encode body: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("encode body: %w", err)
	}
	return out.Bytes(), nil
}

func (b *bench) writer(k kind, out io.Writer, size int) (w io.WriteCloser, err error) {
	switch k {
	case gzipped:
		if b.gzipWriter == nil {
			b.gzipWriter, err = gzip.NewWriterLevel(out, deflateLevel)
		} else {
			b.gzipWriter.Reset(out)
		}
		return b.gzipWriter, err
	case deflated:
		if b.zlibWriter == nil {
			b.zlibWriter, err = zlib.NewWriterLevel(out, deflateLevel)
		} else {
			b.zlibWriter.Reset(out)
		}
		return b.zlibWriter, err
	case raw:
		if b.flateWriter == nil {
			b.flateWriter, err = flate.NewWriter(out, deflateLevel)
		} else {
			b.flateWriter.Reset(out)
		}
		return b.flateWriter, err
	}
	if k == zstandard {
		// The window need not be longer than the body, and its memory is of that size.
		window := min(max(1<<bits.Len(uint(size)), zstd.MinWindowSize), 1<<20)
		return zstd.NewWriter(out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstdLevel), zstd.WithWindowSize(window),
			zstd.WithLowerEncoderMem(true))
	}
	// The window need not be longer than the body (RFC 7932 section 9.1: 10 to 24 bits), and its memory is of that size.
	window := min(max(bits.Len(uint(size)), 10), 22)
	return andybalholm.NewWriterOptions(out, andybalholm.WriterOptions{Quality: brotliLevel, LGWin: window}), nil
}

// hasZlibHeader tells zlib's format (RFC 1950 section 2.2) from deflate as such.
func hasZlibHeader(b []byte) bool {
	return len(b) >= 2 && b[0]&15 == 8 && b[0]>>4 <= 7 && (uint(b[0])<<8|uint(b[1]))%31 == 0
}

// looksRaw tells whether what begins as zlib's format begins as deflate too: then with a stored block, whose length is there twice (RFC 1951 section 3.2.4).
func looksRaw(b []byte) bool {
	return len(b) >= 5 && b[1]^b[3] == 0xff && b[2]^b[4] == 0xff
}
