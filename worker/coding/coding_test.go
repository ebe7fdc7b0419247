package coding

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	andybalholm "github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

const maxBody = 1 << 20

// code applies a coding with the libraries' usual settings; "raw" is deflate without zlib's format.
func code(t testing.TB, name string, body []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	switch name {
	case "gzip":
		w = gzip.NewWriter(&out)
	case "deflate":
		w = zlib.NewWriter(&out)
	case "raw":
		w, _ = flate.NewWriter(&out, flate.DefaultCompression)
	case "br":
		w = andybalholm.NewWriterOptions(&out, andybalholm.WriterOptions{Quality: 3, LGWin: 24}) // The longest window that there is.
	case "zstd":
		w, _ = zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow))
	default:
		t.Fatalf("no coding %q", name)
	}
	if _, err := w.Write(body); err != nil || w.Close() != nil {
		t.Fatal("encode")
	}
	return out.Bytes()
}

// listOf is the list of a header's value; "raw" is sent as deflate.
func listOf(t testing.TB, value string) *List {
	t.Helper()
	l := new(List)
	if err := l.Add([]byte(strings.ReplaceAll(value, "raw", "deflate"))); err != nil {
		t.Fatal(err)
	}
	return l
}

// noise is bytes that don't get shorter.
func noise(n int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

func TestThereAndBack(t *testing.T) {
	bodies := map[string][]byte{"one byte": {'x'}, "text": []byte(strings.Repeat("hello, world. ", 1000)), "noise": noise(100 << 10), "as long as may be": bytes.Repeat(noise(8<<10), 128)}
	for _, value := range []string{"gzip", "deflate", "raw", "br", "zstd", "gzip, br", "br,deflate, gzip", "zstd, gzip"} {
		for name, body := range bodies {
			t.Run(value+"/"+name, func(t *testing.T) {
				coded := body
				for _, c := range strings.Split(value, ",") {
					coded = code(t, strings.TrimSpace(c), coded)
				}
				l := listOf(t, value)
				got, err := l.Decode(coded, maxBody)
				if err != nil || !bytes.Equal(got, body) {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				again, err := l.Encode(got)
				if err != nil {
					t.Fatal(err)
				}
				if value == "raw" && hasZlibHeader(again) {
					t.Error("it came as deflate as such, and goes on in zlib's format")
				}
				if got, err = listOf(t, value).Decode(again, maxBody); err != nil || !bytes.Equal(got, body) {
					t.Errorf("encoded again: %d bytes, %v", len(got), err)
				}
			})
		}
	}
}

func TestNames(t *testing.T) {
	for value, want := range map[string]string{
		"": "[]", "identity": "[]", " , ,": "[]", "gzip": "[1]", "X-GZIP": "[1]", "deflate\t, br": "[2 3]", "identity,gzip": "[1]",
		"ZSTD": "[4]", "gzip, zstd": "[1 4]", "compress": "unknown", "gzip;q=1": "unknown", "gzip br": "unknown", "gzip, aes128gcm": "unknown", "br,br,br,br": "unknown", "*": "unknown",
	} {
		l := new(List)
		err := l.Add([]byte(value))
		got := fmt.Sprint(l.kinds[:l.n])
		if err != nil {
			got = "unknown"
			if !errors.Is(err, ErrUnknown) {
				t.Errorf("%q: %v", value, err)
			}
		}
		if got != want || l.Empty() != (l.n == 0) {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

// flagged sets flags of a gzip member (RFC 1952 section 2.3.1).
func flagged(member []byte, flags byte) []byte {
	member = bytes.Clone(member)
	member[3] |= flags
	return member
}

func TestMalformed(t *testing.T) {
	text := []byte(strings.Repeat("hello, world. ", 20))
	gz, zl, raw, br, zs := code(t, "gzip", text), code(t, "deflate", text), code(t, "raw", text), code(t, "br", text), code(t, "zstd", text)
	spoiled := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[(i+len(b))%len(b)] ^= 0x55
		return b
	}
	dictionary, _ := zlibWithDictionary(text)
	// A body that zlib's format and deflate as such both take: to the latter, it is a stored block that hides what follows.
	twice := twoReadings(t)
	for _, tt := range []struct {
		name, value string
		body        []byte
	}{
		{"gzip: no header", "gzip", text},
		{"gzip: header only", "gzip", gz[:10]},
		{"gzip: half a header", "gzip", gz[:5]},
		{"gzip: checksum", "gzip", spoiled(gz, -6)},
		{"gzip: a reserved flag", "gzip", flagged(gz, 0x20)},
		{"gzip: all reserved flags", "gzip", flagged(gz, 0xe0)},
		{"gzip: a reserved flag in the second member", "gzip", append(bytes.Clone(gz), flagged(gz, 0x80)...)},
		{"gzip: length", "gzip", spoiled(gz, -1)},
		{"gzip: no checksum", "gzip", gz[:len(gz)-8]},
		{"gzip: followed by a byte", "gzip", append(bytes.Clone(gz), 0)},
		{"gzip: followed by text", "gzip", append(bytes.Clone(gz), text...)},
		{"gzip: followed by half a member", "gzip", append(bytes.Clone(gz), gz[:len(gz)/2]...)},
		{"gzip: members without end", "gzip", bytes.Repeat(code(t, "gzip", nil), maxMembers+1)},
		{"zlib: checksum", "deflate", spoiled(zl, -1)},
		{"zlib: followed by a byte", "deflate", append(bytes.Clone(zl), 0)},
		{"zlib: followed by another", "deflate", append(bytes.Clone(zl), zl...)},
		{"zlib: with a dictionary", "deflate", dictionary},
		{"deflate: neither", "deflate", text},
		{"deflate: followed by a byte", "deflate", append(bytes.Clone(raw), 0)},
		{"deflate: in two ways", "deflate", twice},
		{"br: no such stream", "br", text},
		{"br: followed by a byte", "br", append(bytes.Clone(br), 0)},
		{"br: followed by more than a buffer", "br", append(bytes.Clone(br), noise(100<<10)...)},
		{"br: followed by another", "br", append(bytes.Clone(br), br...)},
		{"zstd: no frame", "zstd", text},
		{"zstd: checksum", "zstd", spoiled(zs, -1)},
		{"zstd: followed by a byte", "zstd", append(bytes.Clone(zs), 0)},
		{"zstd: followed by text", "zstd", append(bytes.Clone(zs), text...)},
		{"zstd: followed by half a frame", "zstd", append(bytes.Clone(zs), zs[:len(zs)/2]...)},
		{"zstd: with a dictionary", "zstd", zstdWithDictionary(t, text)},
		{"zstd: a window of 16 MiB", "zstd", zstdOfWindow(t, text, 2*zstdWindow)},
		{"zstd: a window of 8 EiB", "zstd", []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 1, 0, 0}},
		{"zstd: one segment of 4 GiB", "zstd", []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0}},
		{"one coding too many", "gzip, gzip", gz},
		{"the wrong order", "br, gzip", code(t, "br", code(t, "gzip", text))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := listOf(t, tt.value).Decode(tt.body, maxBody)
			if !errors.Is(err, ErrMalformed) || got != nil {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	for value, body := range map[string][]byte{"gzip": gz, "deflate": zl, "raw": raw, "br": br, "zstd": zs} {
		for n := 1; n < len(body); n++ {
			if got, err := listOf(t, value).Decode(body[:n], maxBody); !errors.Is(err, ErrMalformed) || got != nil {
				t.Errorf("%s, cut off after %d of %d bytes: %d bytes, %v", value, n, len(body), len(got), err)
			}
		}
		// What came before has left nothing behind.
		if got, err := listOf(t, value).Decode(body, maxBody); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%s, whole: %v", value, err)
		}
	}
}

func zlibWithDictionary(text []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := zlib.NewWriterLevelDict(&out, 6, []byte("hello"))
	if err != nil {
		return nil, err
	}
	_, err = w.Write(text)
	return out.Bytes(), errors.Join(err, w.Close())
}

func zstdWithDictionary(t *testing.T, text []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderDictRaw(7, []byte("hello, world. hello, world.")))
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(text, nil)
}

// zstdOfWindow makes a frame whose header asks for a window (RFC 8878 section 3.1.1.1.2), which is a power of two.
func zstdOfWindow(t *testing.T, text []byte, window int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window))
	if err != nil {
		t.Fatal(err)
	}
	// What is flushed before the end has a length that the frame's header can't tell.
	if _, err := w.Write(text); err != nil || w.Flush() != nil || w.Close() != nil {
		t.Fatal("encode")
	}
	return out.Bytes()
}

// TestZstdFrames: the longest window of RFC 9659, several frames, and frames that decoders skip (RFC 8878 section 3.1.2).
func TestZstdFrames(t *testing.T) {
	text := []byte(strings.Repeat("hello, world. ", 20))
	frame := code(t, "zstd", text)
	skipped := []byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}
	for name, tt := range map[string]struct{ body, want []byte }{
		"the longest window": {zstdOfWindow(t, text, zstdWindow), text},
		"two frames":         {append(bytes.Clone(frame), frame...), append(bytes.Clone(text), text...)},
		"a skipped frame":    {append(bytes.Clone(skipped), frame...), text},
		"nothing but one":    {skipped, nil},
	} {
		if got, err := listOf(t, "zstd").Decode(tt.body, maxBody); err != nil || !bytes.Equal(got, tt.want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// twoReadings makes a body that is legal in zlib's format, and of which the first bytes are also those of a stored block of deflate as such.
func twoReadings(t *testing.T) []byte {
	t.Helper()
	for n := range 1 << 16 {
		// zlib: a header; then a stored block that is not the last, whose five bits of padding are free, and its length.
		body := []byte{0x78, 0x9c, 0x00, byte(n), byte(n >> 8), ^byte(n), ^byte(n >> 8)}
		for pad := range 32 {
			body[2] = byte(pad << 3)
			if !looksRaw(body) {
				continue
			}
			stored := bytes.Repeat([]byte{'A'}, n)
			sum := adler(stored)
			body = append(append(body, stored...), 1, 0, 0, 0xff, 0xff, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
			// Deflate as such: a block of length 0x9c|body[2]<<8 after the first five bytes; then what is to be its last block.
			length := int(body[1]) | int(body[2])<<8
			if at := 5 + length; at+5 <= 7+n && n > 0 {
				copy(body[at:], []byte{1, 0, 0, 0xff, 0xff})
				sum = adler(body[7 : 7+n])
				copy(body[len(body)-4:], []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
				return body
			}
		}
	}
	t.Fatal("there is none")
	return nil
}

func adler(b []byte) uint32 {
	x, y := uint32(1), uint32(0)
	for _, c := range b {
		x = (x + uint32(c)) % 65521
		y = (y + x) % 65521
	}
	return y<<16 | x
}

// TestTwoReadings proves that the body of the test above is what it is made to be.
func TestTwoReadings(t *testing.T) {
	body := twoReadings(t)
	r, err := zlib.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	one, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	two, err := io.ReadAll(flate.NewReader(bytes.NewReader(body)))
	if err != nil || bytes.Equal(one, two) {
		t.Fatalf("%d and %d bytes, %v", len(one), len(two), err)
	}
}

func TestMembers(t *testing.T) {
	body := append(append(code(t, "gzip", []byte("hello ")), code(t, "gzip", nil)...), code(t, "gzip", []byte("world"))...)
	if got, err := listOf(t, "gzip").Decode(body, maxBody); err != nil || string(got) != "hello world" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestEmpty(t *testing.T) {
	for _, value := range []string{"gzip", "br, deflate", "zstd"} {
		l := listOf(t, value)
		decoded, err := l.Decode(nil, maxBody)
		if err != nil || len(decoded) != 0 {
			t.Errorf("%s: %q, %v", value, decoded, err)
		}
		if encoded, err := l.Encode(nil); err != nil || len(encoded) != 0 {
			t.Errorf("%s: %q, %v", value, encoded, err)
		}
	}
	// One that says so itself.
	if got, err := listOf(t, "gzip").Decode(code(t, "gzip", nil), maxBody); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}

func TestBounds(t *testing.T) {
	for _, tt := range []struct {
		name, value string
		body        []byte // without codings
		max         int
		want        error
	}{
		{"as much as may be", "gzip", noise(1000), 1000, nil},
		{"a byte more", "gzip", noise(1001), 1000, ErrTooLarge},
		{"as much as may be, br", "br", noise(1000), 1000, nil},
		{"a byte more, br", "br", noise(1001), 1000, ErrTooLarge},
		{"as much as may be, deflate", "deflate", noise(1000), 1000, nil},
		{"a byte more, deflate", "deflate", noise(1001), 1000, ErrTooLarge},
		{"a byte more, raw", "raw", noise(1001), 1000, ErrTooLarge},
		{"as much as may be, zstd", "zstd", noise(1000), 1000, nil},
		{"a byte more, zstd", "zstd", noise(1001), 1000, ErrTooLarge},
		{"long, by its ratio, zstd", "zstd", make([]byte, 1<<20), maxBody, ErrTooLarge},
		{"short, whatever its ratio", "br", make([]byte, free), maxBody, nil},
		{"long, by its ratio", "br", make([]byte, free+1), maxBody, ErrTooLarge},
		{"long, by its ratio, gzip", "gzip", make([]byte, 1<<20), maxBody, ErrTooLarge},
		{"one coding over the other", "gzip, gzip", make([]byte, 1<<20), maxBody, ErrTooLarge},
		{"too large between the codings", "gzip, br", noise(2000), 1000, ErrTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			coded := tt.body
			for _, c := range strings.Split(tt.value, ", ") {
				coded = code(t, c, coded)
			}
			if got, err := listOf(t, tt.value).Decode(coded, tt.max); !errors.Is(err, tt.want) || (err == nil) != (len(got) == len(tt.body)) {
				t.Errorf("%d bytes of %d, %v; want %v", len(got), len(coded), err, tt.want)
			}
		})
	}
	many := bytes.Repeat(code(t, "gzip", make([]byte, free/2)), 3)
	if _, err := listOf(t, "gzip").Decode(many, maxBody); !errors.Is(err, ErrTooLarge) {
		t.Errorf("members that are too large together: %v", err)
	}
}

// TestMemory bounds what a bomb of 16 MiB takes: no more than what may come out of a body, twice while it grows, and what the decoder itself needs.
func TestMemory(t *testing.T) {
	for value, decoder := range map[string]uint64{"gzip": 1 << 20, "deflate": 1 << 20, "raw": 1 << 20, "br": 17 << 20, "zstd": 17 << 20} {
		bomb := code(t, value, make([]byte, 16<<20))
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		_, err := listOf(t, value).Decode(bomb, maxBody)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", value, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 3*maxBody+decoder {
			t.Errorf("%s: a bomb of %d bytes took %d KiB", value, len(bomb), took>>10)
		}
	}
}

// TestPanic: a decoder that panics is one that can't decode, and the next body has another.
func TestPanic(t *testing.T) {
	for range cap(benches) + 1 {
		if _, err := (&List{kinds: [maxCodings]kind{9}, n: 1}).Decode([]byte("x"), 10); !errors.Is(err, ErrMalformed) {
			t.Fatal(err)
		}
	}
	if got, err := listOf(t, "gzip").Decode(code(t, "gzip", []byte("x")), 10); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
}

// FuzzDecode throws bytes at all decoders: what they take has to survive being coded again.
func FuzzDecode(f *testing.F) {
	for _, value := range []string{"gzip", "deflate", "raw", "br", "zstd"} {
		f.Add(strings.ReplaceAll(value, "raw", "deflate"), code(f, value, []byte("hello hello hello")))
	}
	f.Add("gzip, br", code(f, "br", code(f, "gzip", []byte("x"))))
	f.Fuzz(func(t *testing.T, value string, body []byte) {
		l := new(List)
		if l.Add([]byte(value)) != nil {
			return
		}
		const max = 1 << 16
		got, err := l.Decode(body, max)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
				t.Fatal(err)
			}
			return
		}
		if len(got) > max && !l.Empty() {
			t.Fatalf("%d bytes", len(got))
		}
		again, err := l.Encode(got)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := l.Decode(again, max); err != nil || !bytes.Equal(back, got) {
			t.Fatalf("coded again: %d bytes of %d, %v", len(back), len(got), err)
		}
	})
}

// Benchmark is one body of 64 KiB, decoded and encoded.
func Benchmark(b *testing.B) {
	body := []byte(strings.Repeat(`{"name": "alice", "order": 17, "note": "hello"}, `, 1400)[:64<<10])
	for _, value := range []string{"gzip", "deflate", "br", "zstd"} {
		coded := code(b, value, append(noise(1024), body...))
		l := listOf(b, value)
		b.Run(value+"/decode", func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, err := l.Decode(coded, maxBody); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(value+"/encode", func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, err := l.Encode(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
