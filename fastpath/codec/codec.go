// Package codec is the grpc-go codec of both processes: raw frames, vtprotobuf messages, and all other protobuf messages.
package codec

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Frame is one gRPC message as bytes. Both Marshal and Unmarshal copy, so B is the caller's again when SendMsg or RecvMsg returns (grpc-go
// writes a message after SendMsg returned).
type Frame struct {
	B []byte
}

// Parts is one gRPC message to be sent: Head and then Tail. Marshal copies both.
type Parts struct {
	Head, Tail []byte
}

// vtMessage is what vtprotobuf generates.
type vtMessage interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
}

// Codec implements encoding.CodecV2 under the name "proto". Use it with grpc.ForceServerCodecV2 and grpc.ForceCodecV2.
type Codec struct {
	// Pool lends the buffers; nil means mem.DefaultBufferPool.
	Pool mem.BufferPool
}

// Name is the content-subtype.
func (Codec) Name() string { return "proto" }

func (c Codec) pool() mem.BufferPool {
	if c.Pool != nil {
		return c.Pool
	}
	return mem.DefaultBufferPool()
}

// Marshal encodes a *Frame, *Parts, a vtprotobuf message or a proto.Message.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *Frame:
		return mem.BufferSlice{mem.Copy(m.B, c.pool())}, nil
	case *Parts:
		data := mem.BufferSlice{mem.Copy(m.Head, c.pool())}
		if len(m.Tail) > 0 {
			data = append(data, mem.Copy(m.Tail, c.pool()))
		}
		return data, nil
	case vtMessage:
		size := m.SizeVT()
		if mem.IsBelowBufferPoolingThreshold(size) {
			buf := make([]byte, size)
			if _, err := m.MarshalToSizedBufferVT(buf); err != nil {
				return nil, err
			}
			return mem.BufferSlice{mem.SliceBuffer(buf)}, nil
		}
		pool := c.pool()
		buf := pool.Get(size)
		if _, err := m.MarshalToSizedBufferVT((*buf)[:size]); err != nil {
			pool.Put(buf)
			return nil, err
		}
		return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
	case proto.Message:
		buf, err := proto.Marshal(m)
		if err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(buf)}, nil
	}
	return nil, fmt.Errorf("codec: can't marshal %T", v)
}

// Unmarshal decodes into a *Frame, a vtprotobuf message or a proto.Message. What it decodes does not alias data.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *Frame:
		m.B = m.B[:0]
		for _, b := range data {
			m.B = append(m.B, b.ReadOnlyData()...)
		}
		return nil
	case vtMessage:
		buf := data.MaterializeToBuffer(c.pool())
		defer buf.Free()
		return m.UnmarshalVT(buf.ReadOnlyData())
	case proto.Message:
		buf := data.MaterializeToBuffer(c.pool())
		defer buf.Free()
		return proto.Unmarshal(buf.ReadOnlyData(), m)
	}
	return fmt.Errorf("codec: can't unmarshal into %T", v)
}
