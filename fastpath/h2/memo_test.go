package h2

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
	"pgregory.net/rapid"
)

func TestChangesTable(t *testing.T) {
	long := append([]byte{0x0f, 0x10, 0x7f, 0x80, 0x01}, bytes.Repeat([]byte("v"), 255)...)
	for _, tt := range []struct {
		name  string
		block []byte
		want  bool
	}{
		{"nothing", nil, false},
		{"indexed", []byte{0x82, 0xbe, 0xff, 0x10}, false},
		{"literal without indexing, indexed name", []byte{0x04, 2, '/', 'x'}, false},
		{"literal without indexing, index of two bytes, value of 255", long, false},
		{"literal without indexing, new name", []byte{0x00, 1, 'a', 1, 'b', 0x82}, false},
		{"literal never indexed", []byte{0x10, 1, 'a', 1, 'b'}, false},
		{"literal with incremental indexing", []byte{0x82, 0x40, 1, 'a', 1, 'b'}, true},
		{"literal with incremental indexing, indexed name", []byte{0x41, 1, 'b'}, true},
		{"size update", []byte{0x20, 0x82}, true},
		{"value cut off", []byte{0x04, 9, 'x'}, true},
		{"integer cut off", []byte{0x82, 0xff}, true},
		{"integer without end", append([]byte{0xff}, bytes.Repeat([]byte{0x80}, 20)...), true},
		{"length larger than any block", []byte{0x04, 0x7f, 0xff, 0xff, 0xff, 0xff, 0x0f}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := changesTable(tt.block); got != tt.want {
				t.Errorf("changesTable(% x): got %v, want %v", tt.block, got, tt.want)
			}
		})
	}
}

// sections are a connection, whose header sections may come from its memo, and the plain decoder as its oracle.
type sections struct {
	conn   *Conn
	plain  *hpack.Decoder
	direct Request
}

func newSections(limit uint32) *sections {
	s := &sections{conn: memoryConn(Config{MaxHeaderListSize: limit}, fuzzHandler{})}
	s.plain = hpack.NewDecoder(headerTableSize, func(f hpack.HeaderField) { s.direct.add(f, limit) })
	s.plain.SetMaxStringLength(int(limit))
	return s
}

// differ decodes a block both ways. It returns what is different, and whether the block was legal.
func (s *sections) differ(block []byte) (difference string, legal bool) {
	s.direct.reset()
	_, perr := s.plain.Write(block)
	if cerr := s.plain.Close(); perr == nil {
		perr = cerr
	}
	got, err := s.conn.section(block)
	switch {
	case (err != nil) != (perr != nil):
		return fmt.Sprintf("error %v, want %v", err, perr), false
	case err != nil:
		return "", false
	}
	same := *got
	want := s.direct
	if len(same.fields) != len(want.fields) || len(want.fields) > 0 && !reflect.DeepEqual(same.fields, want.fields) {
		return fmt.Sprintf("fields %v, want %v", same.fields, want.fields), true
	}
	same.fields, want.fields = nil, nil
	if !reflect.DeepEqual(same, want) {
		return fmt.Sprintf("%+v, want %+v", same, want), true
	}
	return "", true
}

// A block always means what the HPACK table says now, however often the same bytes came before.
func TestMemoProperty(t *testing.T) {
	names := []string{":path", "x-policy-route", "content-type", "te", "user-agent", "X-Illegal"}
	rapid.Check(t, func(t *rapid.T) {
		s := newSections(1000)
		var wire bytes.Buffer
		enc := hpack.NewEncoder(&wire)
		for range rapid.IntRange(1, 60).Draw(t, "sections") {
			wire.Reset()
			if rapid.IntRange(0, 20).Draw(t, "resize") == 0 {
				enc.SetMaxDynamicTableSize(rapid.Uint32Range(0, headerTableSize).Draw(t, "table"))
			}
			for range rapid.IntRange(1, 5).Draw(t, "fields") {
				f := hpack.HeaderField{
					Name: rapid.SampledFrom(names).Draw(t, "name"), Value: rapid.SampledFrom([]string{"", "a", "b", "c", strings.Repeat("long", 100)}).Draw(t, "value"),
					Sensitive: rapid.IntRange(0, 3).Draw(t, "sensitive") == 0, // Never indexed.
				}
				_ = enc.WriteField(f)
			}
			for range rapid.IntRange(1, 2).Draw(t, "times") {
				if d, _ := s.differ(wire.Bytes()); d != "" {
					t.Fatalf("block % x: %s", wire.Bytes(), d)
				}
				if changesTable(wire.Bytes()) {
					break // The same bytes would mean something else, also to the encoder.
				}
			}
			if n := len(s.conn.memo.requests); n > maxMemo {
				t.Fatalf("%d blocks are remembered", n)
			}
		}
	})
}

// What the table held when a block was remembered counts no more when it has changed.
func TestMemoForgets(t *testing.T) {
	s := newSections(1000)
	add := func(v byte) []byte { return []byte{0x40, 1, 'a', 1, v} }
	newest := []byte{0xbe} // Index 62: the newest entry of the table.
	for _, v := range []byte("xyz") {
		for _, block := range [][]byte{add(v), newest, newest} {
			if d, legal := s.differ(block); d != "" || !legal {
				t.Fatalf("after %q: %s", v, d)
			}
		}
		if r, _ := s.conn.section(newest); r.fields[0].Value != string(v) {
			t.Errorf("the newest field: got %q, want %q", r.fields[0].Value, v)
		}
	}
}

func TestMemoBounds(t *testing.T) {
	s := newSections(64 << 10)
	literal := func(v string) []byte {
		return append(appendHpackInt([]byte{0x00, 1, 'a'}, 7, 0, uint64(len(v))), v...)
	}
	for i := range 10 * maxMemo {
		if d, legal := s.differ(literal(fmt.Sprint(i))); d != "" || !legal {
			t.Fatalf("%d: %s", i, d)
		}
	}
	if n := len(s.conn.memo.requests); n == 0 || n > maxMemo {
		t.Errorf("%d blocks are remembered, want 1 to %d", n, maxMemo)
	}
	s.differ(literal(strings.Repeat("v", maxMemoBlock)))
	if s.conn.memo.get(literal(strings.Repeat("v", maxMemoBlock))) != nil {
		t.Error("a long block is remembered")
	}
	// A short block that stands for much: one table entry, many times.
	s.differ(append([]byte{0x40, 1, 'a'}, literal(strings.Repeat("v", 900))[3:]...))
	bomb := bytes.Repeat([]byte{0xbe}, 60)
	s.differ(bomb)
	if s.conn.memo.get(bomb) != nil {
		t.Error("a block that decodes to much is remembered")
	}
	illegal := []byte{0x00, 1, 'A', 1, 'b'}
	s.differ(illegal)
	if s.conn.memo.get(illegal) != nil {
		t.Error("a malformed block is remembered")
	}
}

// FuzzMemo: the input is blocks with 0xfe 0xfe between them; the memo never changes what one means.
func FuzzMemo(f *testing.F) {
	f.Add([]byte{0x40, 1, 'a', 1, 'b', 0xfe, 0xfe, 0xbe, 0xfe, 0xfe, 0xbe})
	f.Add([]byte{0x82, 0x04, 2, '/', 'x', 0xfe, 0xfe, 0x82, 0x04, 2, '/', 'x', 0xfe, 0xfe, 0x3f, 0xe1, 0x1f, 0x82})
	f.Fuzz(func(t *testing.T, input []byte) {
		s := newSections(1000)
		for block := range bytes.SplitSeq(input, []byte{0xfe, 0xfe}) {
			for range 2 {
				d, legal := s.differ(block)
				if d != "" {
					t.Fatalf("block % x: %s", block, d)
				}
				if !legal {
					return // The connection ends.
				}
			}
		}
	})
}

func BenchmarkSection(b *testing.B) {
	var wire bytes.Buffer
	enc := hpack.NewEncoder(&wire)
	c := memoryConn(Config{}, fuzzHandler{})
	write := func() []byte {
		wire.Reset()
		for _, f := range []hpack.HeaderField{
			{Name: ":method", Value: "POST"},
			{Name: ":path", Value: "/envoy.service.ext_proc.v3.ExternalProcessor/Process", Sensitive: true},
			{Name: ":scheme", Value: "http"},
			{Name: ":authority", Value: "policy_engine"},
			{Name: "te", Value: "trailers"},
			{Name: "content-type", Value: "application/grpc"},
			{Name: "x-policy-route", Value: "orders"},
			{Name: "x-envoy-internal", Value: "true"},
			{Name: "x-forwarded-for", Value: "10.0.0.1"},
		} {
			_ = enc.WriteField(f)
		}
		return wire.Bytes()
	}
	for range 2 { // The table is warm afterwards.
		if _, err := c.section(write()); err != nil {
			b.Fatal(err)
		}
	}
	block := write()
	b.Run("remembered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = c.section(block)
		}
	})
	b.Run("decoded", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			clear(c.memo.requests)
			c.request.reset()
			_ = c.decode(block)
		}
	})
}
