package headermap

import (
	"errors"
	"testing"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
)

// FuzzParse compares Parse with Envoy's own message on any bytes: what Parse takes, the reference takes too, with the same
// content. (Parse refuses more: header names that are none, two values, groups, wrong wire types.)
func FuzzParse(f *testing.F) {
	f.Add([]byte(raw(":path", "/orders") + raw("a", "\xff")))
	f.Add([]byte(ld(1, ld(1, "a")+ld(2, "x"))))
	f.Add([]byte(ld(1, ld(1, "a\xff")+ld(1, "b")+ld(2, "\xff")+ld(2, "x"))))
	f.Add([]byte(ld(1, ld(1, "a")+ld(2, "x")+ld(3, "y"))))
	f.Add([]byte("\x10\x96\x01\x19" + "12345678" + ld(4, "u") + "\x2d" + "1234" + raw("a", "x")))
	f.Add([]byte("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Add([]byte("\x0b\x0c\x13\x14"))
	f.Fuzz(func(t *testing.T, src []byte) {
		got, err := Parse(nil, src)
		if err != nil {
			return
		}
		var want corev3.HeaderMap
		if err := proto.Unmarshal(src, &want); err != nil {
			t.Fatalf("Parse takes what the reference refuses: %v", err)
		}
		same(t, got, &want)
	})
}

// FuzzParseReference goes the other way: what the reference encodes, Parse reads as the same, or refuses for a reason that is in the content.
func FuzzParseReference(f *testing.F) {
	f.Add(":path", "/orders", "", "a", "", "raw")
	f.Add("a", "x", "y", "", "x", "")
	f.Add("größe", "ü", "", "a b", "", "\xff")
	f.Fuzz(func(t *testing.T, name1, value1, raw1, name2, value2, raw2 string) {
		m := &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
			{Key: name1, Value: value1, RawValue: []byte(raw1)},
			{Key: name2, Value: value2, RawValue: []byte(raw2)},
		}}
		src, err := proto.Marshal(m)
		if err != nil {
			return // Not UTF-8: the reference doesn't encode it.
		}
		got, err := Parse(nil, src)
		if want := refusal(m); !errors.Is(err, want) {
			t.Fatalf("error is %v, want %v", err, want)
		}
		if err == nil {
			same(t, got, m)
		}
	})
}

// refusal states the rules anew: the error that the first illegal header must give.
func refusal(m *corev3.HeaderMap) error {
	for _, h := range m.GetHeaders() {
		for _, c := range []byte(h.GetKey()) {
			if c <= ' ' || c == 0x7f {
				return ErrInvalidName
			}
		}
		switch {
		case h.GetKey() == "":
			return ErrEmptyName
		case h.GetValue() != "" && len(h.GetRawValue()) > 0:
			return ErrTwoValues
		}
	}
	return nil
}

// FuzzAppendField proves that the reference reads what AppendField writes.
func FuzzAppendField(f *testing.F) {
	f.Add("a", "b")
	f.Add("a", "")
	f.Add("größe", "\xff\x00")
	f.Fuzz(func(t *testing.T, name, value string) {
		var m corev3.HeaderMap
		err := proto.Unmarshal(AppendField(nil, name, value), &m)
		if !utf8.ValidString(name) {
			if err == nil {
				t.Fatalf("the reference takes the name %q", name)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if h := m.GetHeaders(); len(h) != 1 || h[0].GetKey() != name || string(h[0].GetRawValue()) != value || h[0].GetValue() != "" {
			t.Fatalf("the reference reads %v", h)
		}
	})
}

func same(t *testing.T, got []Field, want *corev3.HeaderMap) {
	t.Helper()
	if len(got) != len(want.GetHeaders()) {
		t.Fatalf("%d fields, the reference has %d", len(got), len(want.GetHeaders()))
	}
	for i, h := range want.GetHeaders() {
		value := h.GetRawValue()
		if h.GetValue() != "" {
			value = []byte(h.GetValue())
		}
		if string(got[i].Name) != h.GetKey() || string(got[i].Value) != string(value) {
			t.Fatalf("field %d is %q: %q, the reference has %q: %q", i, got[i].Name, got[i].Value, h.GetKey(), value)
		}
	}
}
