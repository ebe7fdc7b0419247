package codec

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// vtString has the methods that vtprotobuf generates; its encoding is its text. fail makes each of them fail.
type vtString struct {
	text string
	got  []byte // what UnmarshalVT was given, aliased
	fail error
}

func (s *vtString) SizeVT() int { return len(s.text) }

func (s *vtString) MarshalToSizedBufferVT(b []byte) (int, error) {
	if s.fail != nil {
		return 0, s.fail
	}
	if len(b) != len(s.text) {
		return 0, errors.New("buffer of the wrong size")
	}
	return copy(b, s.text), nil
}

func (s *vtString) UnmarshalVT(b []byte) error {
	s.text, s.got = string(b), b
	return s.fail
}

// countingPool counts buffers that are lent and come back, and overwrites those that come back. Small ones don't count: grpc-go leaves
// those to the garbage collector (mem.IsBelowBufferPoolingThreshold).
type countingPool struct {
	mu        sync.Mutex
	lent, got int
}

func (p *countingPool) Get(length int) *[]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !mem.IsBelowBufferPoolingThreshold(length) {
		p.lent++
	}
	b := make([]byte, length)
	return &b
}

func (p *countingPool) Put(b *[]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got++
	for i := range *b {
		(*b)[i] = 0xdb
	}
}

const large = 5000 // above grpc-go's threshold for pooling (1 KiB)

func TestFrame(t *testing.T) {
	for _, size := range []int{0, 1, 100, large} {
		pool := &countingPool{}
		c := Codec{Pool: pool}
		text := strings.Repeat("x", size)
		sent := &Frame{B: []byte(text)}
		data, err := c.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		clear(sent.B) // The caller's again.
		if got := string(data.Materialize()); got != text {
			t.Errorf("size %d: the encoding changed with the frame", size)
		}
		received := &Frame{B: []byte("what was there before")}
		if err := c.Unmarshal(data, received); err != nil {
			t.Fatal(err)
		}
		data.Free()
		if string(received.B) != text {
			t.Errorf("size %d: got %d bytes, or other ones, after the buffers were freed", size, len(received.B))
		}
		if pool.lent != pool.got {
			t.Errorf("size %d: %d buffers lent, %d came back", size, pool.lent, pool.got)
		}
	}
}

func TestFrameOfManyBuffers(t *testing.T) {
	data := mem.BufferSlice{mem.SliceBuffer("one "), mem.SliceBuffer(""), mem.SliceBuffer("two "), mem.SliceBuffer("three")}
	f := &Frame{B: make([]byte, 0, 64)}
	before := &f.B[:1][0]
	if err := (Codec{}).Unmarshal(data, f); err != nil {
		t.Fatal(err)
	}
	if string(f.B) != "one two three" {
		t.Errorf("got %q", f.B)
	}
	if &f.B[0] != before {
		t.Error("the frame's memory was not used again")
	}
}

func TestPartsAreCopied(t *testing.T) {
	for _, sizes := range [][2]int{{3, 0}, {3, 4}, {3, large}, {large, large}} {
		pool := &countingPool{}
		head, tail := bytes.Repeat([]byte("h"), sizes[0]), bytes.Repeat([]byte("t"), sizes[1])
		want := string(head) + string(tail)
		data, err := Codec{Pool: pool}.Marshal(&Parts{Head: head, Tail: tail})
		if err != nil {
			t.Fatal(err)
		}
		clear(head)
		clear(tail)
		if got := string(data.Materialize()); got != want {
			t.Errorf("parts of %v: got %d bytes, or other ones", sizes, len(got))
		}
		data.Free()
		if pool.lent != pool.got {
			t.Errorf("parts of %v: %d buffers lent, %d came back", sizes, pool.lent, pool.got)
		}
	}
}

func TestVTMessage(t *testing.T) {
	for _, size := range []int{0, 1, 100, large} {
		pool := &countingPool{}
		c := Codec{Pool: pool}
		text := strings.Repeat("v", size)
		data, err := c.Marshal(&vtString{text: text})
		if err != nil {
			t.Fatal(err)
		}
		if got := string(data.Materialize()); got != text {
			t.Errorf("size %d: got %d bytes, or other ones", size, len(got))
		}
		// In pieces, as they come from the network.
		whole := data.Materialize()
		pieces := mem.BufferSlice{mem.SliceBuffer(whole[:size/2]), mem.SliceBuffer(whole[size/2:])}
		var m vtString
		if err := c.Unmarshal(pieces, &m); err != nil {
			t.Fatal(err)
		}
		data.Free()
		if m.text != text {
			t.Errorf("size %d: decoded %d bytes, or other ones", size, len(m.text))
		}
		if pool.lent != pool.got {
			t.Errorf("size %d: %d buffers lent, %d came back", size, pool.lent, pool.got)
		}
	}
}

func TestVTMessageErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, size := range []int{10, large} {
		pool := &countingPool{}
		c := Codec{Pool: pool}
		m := &vtString{text: strings.Repeat("v", size), fail: broken}
		if _, err := c.Marshal(m); !errors.Is(err, broken) {
			t.Errorf("size %d: marshal: %v", size, err)
		}
		half := bytes.Repeat([]byte("v"), size)
		if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(half), mem.SliceBuffer(half)}, m); !errors.Is(err, broken) {
			t.Errorf("size %d: unmarshal: %v", size, err)
		}
		if pool.lent != pool.got {
			t.Errorf("size %d: %d buffers lent, %d came back after errors", size, pool.lent, pool.got)
		}
	}
}

func TestPlainMessage(t *testing.T) {
	want, err := structpb.NewStruct(map[string]any{"a": "b", "n": 1.5, "list": []any{true, nil}})
	if err != nil {
		t.Fatal(err)
	}
	data, err := Codec{}.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got := &structpb.Struct{}
	if err := (Codec{}).Unmarshal(data, got); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestErrors(t *testing.T) {
	if _, err := (Codec{}).Marshal(wrapperspb.String("\xff")); err == nil {
		t.Error("marshal: a string that is not UTF-8 was taken")
	}
	cut := mem.BufferSlice{mem.SliceBuffer("\x0a\x05ab")}
	if err := (Codec{}).Unmarshal(cut, &wrapperspb.StringValue{}); err == nil {
		t.Error("unmarshal: a cut message was taken")
	}
	if _, err := (Codec{}).Marshal("text"); err == nil || !strings.Contains(err.Error(), "string") {
		t.Errorf("marshal of a string: %v, want an error with its type", err)
	}
	if err := (Codec{}).Unmarshal(nil, new(int)); err == nil || !strings.Contains(err.Error(), "*int") {
		t.Errorf("unmarshal into an int: %v, want an error with its type", err)
	}
	// A value of the type is not the message: it would be decoded into a copy.
	if err := (Codec{}).Unmarshal(nil, Frame{}); err == nil {
		t.Error("unmarshal into a Frame that is no pointer was taken")
	}
}

func TestName(t *testing.T) {
	if got := (Codec{}).Name(); got != "proto" {
		t.Errorf("name %q: stock clients and Envoy speak application/grpc+proto", got)
	}
}

func BenchmarkFrame(b *testing.B) {
	c := Codec{}
	sent, received := &Frame{B: bytes.Repeat([]byte("x"), 1500)}, &Frame{}
	b.ReportAllocs()
	for b.Loop() {
		data, err := c.Marshal(sent)
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Unmarshal(data, received); err != nil {
			b.Fatal(err)
		}
		data.Free()
	}
}
