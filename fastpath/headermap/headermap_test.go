package headermap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"
)

// The pieces of an encoding, written out so that the tests can break each of them.

func ld(num int, body string) string {
	return string(binary.AppendUvarint(nil, uint64(num)<<3|2)) + string(binary.AppendUvarint(nil, uint64(len(body)))) + body
}

func raw(name, value string) string { return ld(1, ld(1, name)+ld(3, value)) }

func TestParse(t *testing.T) {
	long := strings.Repeat("v", 300) // its length takes two bytes
	tests := []struct {
		name string
		src  string
		want []string // name, value, name, value …
		err  error
	}{
		{name: "empty map"},
		{name: "raw_value", src: raw(":path", "/orders"), want: []string{":path", "/orders"}},
		{name: "value", src: ld(1, ld(1, "accept")+ld(2, "a/b")), want: []string{"accept", "a/b"}},
		{name: "empty value beside raw_value", src: ld(1, ld(1, "a")+ld(2, "")+ld(3, "x")), want: []string{"a", "x"}},
		{name: "value beside empty raw_value", src: ld(1, ld(1, "a")+ld(2, "x")+ld(3, "")), want: []string{"a", "x"}},
		{name: "no value", src: ld(1, ld(1, "a")), want: []string{"a", ""}},
		{name: "value before name", src: ld(1, ld(3, "x")+ld(1, "a")), want: []string{"a", "x"}},
		{name: "order and repeats are kept", src: raw("b", "1") + raw("a", "2") + raw("b", "3"), want: []string{"b", "1", "a", "2", "b", "3"}},
		{name: "long value", src: raw("a", long), want: []string{"a", long}},
		{name: "raw_value is any bytes", src: raw("a", "\xff\x00\r\n"), want: []string{"a", "\xff\x00\r\n"}},
		{name: "name outside ASCII", src: raw("größe", "1"), want: []string{"größe", "1"}},
		{name: "last name counts", src: ld(1, ld(1, "a")+ld(1, "b")+ld(3, "x")), want: []string{"b", "x"}},
		{name: "last raw_value counts", src: ld(1, ld(1, "a")+ld(3, "x")+ld(3, "y")), want: []string{"a", "y"}},
		{name: "unknown fields are skipped", src: "\x10\x96\x01" + "\x19" + "12345678" + ld(4, "u") + "\x2d" + "1234" + raw("a", "x"), want: []string{"a", "x"}},
		{name: "unknown fields of a header are skipped", src: ld(1, "\x20\x01"+"\x29"+"12345678"+"\x35"+"1234"+ld(7, "u")+ld(1, "a")+ld(3, "x")), want: []string{"a", "x"}},

		{name: "both values", src: ld(1, ld(1, "a")+ld(2, "x")+ld(3, "y")), err: ErrTwoValues},
		{name: "both values, the same", src: ld(1, ld(3, "x")+ld(1, "a")+ld(2, "x")), err: ErrTwoValues},
		{name: "no name", src: ld(1, ld(3, "x")), err: ErrEmptyName},
		{name: "empty name", src: ld(1, ld(1, "")+ld(3, "x")), err: ErrEmptyName},
		{name: "empty header", src: ld(1, ""), err: ErrEmptyName},
		{name: "name emptied by a later one", src: ld(1, ld(1, "a")+ld(1, "")), err: ErrEmptyName},
		{name: "name is not UTF-8", src: raw("a\xff", "x"), err: ErrNameUTF8},
		{name: "name is overlong UTF-8", src: raw("a\xc0\xaf", "x"), err: ErrNameUTF8},
		{name: "superseded name is not UTF-8", src: ld(1, ld(1, "a\xff")+ld(1, "b")), err: ErrNameUTF8},
		{name: "value is not UTF-8", src: ld(1, ld(1, "a")+ld(2, "\xff")), err: ErrValueUTF8},
		{name: "superseded value is not UTF-8", src: ld(1, ld(1, "a")+ld(2, "\xff")+ld(2, "x")), err: ErrValueUTF8},
		{name: "line break in a name", src: raw("a\nb", "x"), err: ErrInvalidName},
		{name: "NUL in a name", src: raw("a\x00b", "x"), err: ErrInvalidName},
		{name: "space in a name", src: raw("a b", "x"), err: ErrInvalidName},
		{name: "DEL in a name", src: raw("a\x7f", "x"), err: ErrInvalidName},
		{name: "headers is a varint", src: "\x08\x01", err: ErrWireType},
		{name: "headers is a group", src: "\x0b\x0c", err: ErrWireType},
		{name: "name is a varint", src: ld(1, "\x08\x01"), err: ErrWireType},
		{name: "value is fixed64", src: ld(1, "\x11"+"12345678"), err: ErrWireType},
		{name: "raw_value is fixed32", src: ld(1, "\x1d"+"1234"), err: ErrWireType},
		{name: "field number 0", src: "\x02\x00", err: ErrTruncated},
		{name: "field number above the highest", src: string(binary.AppendUvarint(nil, 1<<32|2)) + "\x00", err: ErrTruncated},
		{name: "unknown group", src: "\x13\x14", err: ErrTruncated},
		{name: "unknown wire type", src: "\x16", err: ErrTruncated},
		{name: "ends in a tag", src: "\x80", err: ErrTruncated},
		{name: "ends before a length", src: "\x0a", err: ErrTruncated},
		{name: "length beyond the end", src: "\x0a\x7f", err: ErrTruncated},
		{name: "length of 2^63", src: "\x0a" + string(binary.AppendUvarint(nil, 1<<63)), err: ErrTruncated},
		{name: "length of 2^64-1", src: "\x0a" + string(binary.AppendUvarint(nil, math.MaxUint64)), err: ErrTruncated},
		{name: "length of 11 bytes", src: "\x0a" + strings.Repeat("\xff", 10) + "\x01", err: ErrTruncated},
		{name: "inner length of 2^64-1", src: ld(1, "\x0a"+string(binary.AppendUvarint(nil, math.MaxUint64))), err: ErrTruncated},
		{name: "inner length beyond the header, within the map", src: ld(1, "\x0a\x05ab") + "cdefgh", err: ErrTruncated},
		{name: "unknown varint is cut", src: "\x10\x80", err: ErrTruncated},
		{name: "unknown fixed64 is cut", src: "\x19" + "1234567", err: ErrTruncated},
		{name: "unknown fixed32 is cut", src: "\x2d" + "123", err: ErrTruncated},
		{name: "unknown bytes are cut", src: "\x22\x02x", err: ErrTruncated},
		{name: "error after good fields", src: raw("a", "x") + "\x0a\x7f", err: ErrTruncated},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(nil, []byte(tt.src))
			if !errors.Is(err, tt.err) {
				t.Fatalf("error is %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			var flat []string
			for _, f := range got {
				flat = append(flat, string(f.Name), string(f.Value))
			}
			if strings.Join(flat, "\x1f") != strings.Join(tt.want, "\x1f") {
				t.Errorf("got %q, want %q", flat, tt.want)
			}
		})
	}
}

// TestParseEveryTruncation cuts a good encoding at every byte: each cut must be an error or a whole number of fields.
func TestParseEveryTruncation(t *testing.T) {
	first := raw(":path", strings.Repeat("p", 200))
	src := []byte(first + raw("a", "x"))
	whole := map[int]int{0: 0, len(first): 1, len(src): 2}
	for i := range len(src) + 1 {
		got, err := Parse(nil, src[:i])
		want, ok := whole[i]
		if ok != (err == nil) || ok && len(got) != want {
			t.Errorf("cut at %d of %d: %d fields, error %v", i, len(src), len(got), err)
		}
	}
}

func TestParseTooMany(t *testing.T) {
	if got, err := Parse(nil, []byte(strings.Repeat(raw("a", "x"), MaxFields))); err != nil || len(got) != MaxFields {
		t.Errorf("at the limit: %d fields, error %v", len(got), err)
	}
	if _, err := Parse(nil, []byte(strings.Repeat(raw("a", "x"), MaxFields+1))); !errors.Is(err, ErrTooMany) {
		t.Errorf("above the limit: error %v, want %v", err, ErrTooMany)
	}
}

func TestParseAppends(t *testing.T) {
	dst := []Field{{Name: []byte("first")}}
	dst, err := Parse(dst, []byte(raw("second", "x")))
	if err != nil || len(dst) != 2 || string(dst[0].Name) != "first" || string(dst[1].Name) != "second" {
		t.Errorf("got %q, error %v", dst, err)
	}
}

// TestParseAliases proves both halves of the ownership rule: fields alias the source, and appending to one does not run into the next.
func TestParseAliases(t *testing.T) {
	src := []byte(raw("name", "value") + raw("next", "other"))
	fields, err := Parse(nil, src)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(fields[0].Value, "overrun"...)
	_ = append(fields[0].Name, "overrun"...)
	if !bytes.Equal(src, []byte(raw("name", "value")+raw("next", "other"))) {
		t.Error("an append to a field wrote into the source")
	}
	copy(src[bytes.Index(src, []byte("value")):], "VALUE")
	if string(fields[0].Value) != "VALUE" {
		t.Error("the value does not alias the source")
	}
}

func TestAppendField(t *testing.T) {
	var enc []byte
	want := []string{":path", "/a?b", "empty", "", "long", strings.Repeat("v", 127), "longer", strings.Repeat("v", 128), "longest", strings.Repeat("v", 20000), strings.Repeat("n", 130), "x"}
	for i := 0; i < len(want); i += 2 {
		enc = AppendField(enc, want[i], want[i+1])
	}
	fields, err := Parse(nil, enc)
	if err != nil {
		t.Fatal(err)
	}
	if len(fields) != len(want)/2 {
		t.Fatalf("%d fields, want %d", len(fields), len(want)/2)
	}
	for i, f := range fields {
		if string(f.Name) != want[2*i] || string(f.Value) != want[2*i+1] {
			t.Errorf("field %d is %q: %.20q", i, f.Name, f.Value)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	var src []byte
	for range 20 {
		src = AppendField(src, "x-some-header", strings.Repeat("v", 140))
	}
	fields := make([]Field, 0, 32)
	buf := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() {
		var err error
		if fields, err = Parse(fields[:0], src); err != nil {
			t.Fatal(err)
		}
		buf = AppendField(buf[:0], "x-some-header", "value")
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// Every byte at every place of names of every length up to two words.
func TestPlainName(t *testing.T) {
	for length := range 18 {
		for at := range length {
			for b := range 256 {
				name := bytes.Repeat([]byte("~!"), 9)[:length]
				name[at] = byte(b)
				if got, want := plainName(name), b > ' ' && b < 0x7f; got != want {
					t.Fatalf("plainName(%q): got %v, want %v", name, got, want)
				}
			}
		}
	}
}

// TestCommon: the fast path takes what Envoy sends, or else the benchmark measures nothing.
func TestCommon(t *testing.T) {
	for name, tt := range map[string]struct {
		src string
		ok  bool
	}{
		"raw_value":              {raw(":path", "/orders"), true},
		"long raw_value":         {raw("authorization", strings.Repeat("v", 900)), true},
		"empty value":            {ld(1, ld(1, "accept")), true},
		"value":                  {ld(1, ld(1, "accept")+ld(2, "x")), false},
		"raw_value twice":        {ld(1, ld(1, "a")+ld(3, "x")+ld(3, "y")), false},
		"name outside ASCII":     {raw("größe", "x"), false},
		"unknown field":          {ld(2, "x"), false},
		"name longer than field": {ld(1, "\x0a\x05abc"), false},
	} {
		if _, _, ok := common([]byte(tt.src)); ok != tt.ok {
			t.Errorf("%s: got %v, want %v", name, ok, tt.ok)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	src := []byte(raw(":method", "GET") + raw(":path", "/orders/17") + raw(":authority", "api.example.com") + raw(":scheme", "https") +
		raw("user-agent", "Mozilla/5.0 (X11; Linux x86_64)") + raw("accept", "*/*") + raw("x-api-key", "k-1234567890") +
		raw("authorization", "Bearer "+strings.Repeat("t", 700)) + raw("x-request-id", "5b2c2e0e-6d1b-4f5c-9a55-0e7a5b1f0c11") +
		raw("x-forwarded-for", "10.0.0.1") + raw("x-forwarded-proto", "https"))
	fields := make([]Field, 0, 32)
	b.ReportAllocs()
	for b.Loop() {
		fields, _ = Parse(fields[:0], src)
	}
}
