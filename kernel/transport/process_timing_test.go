package transport

import (
	"io"
	"testing"

	"google.golang.org/grpc"

	"github.com/policy-engine/policy-engine/fastpath/codec"
)

// BenchmarkProcess measures a stream with one message and its final answer over loopback, the client in the same process included.
func BenchmarkProcess(b *testing.B) {
	r := newRig(b)
	r.evaluator.inline = true
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		message, answer := codec.Frame{B: []byte("call")}, codec.Frame{}
		for pb.Next() {
			s, err := r.client.NewStream(b.Context(), desc, "/"+serviceName+"/Process")
			if err != nil {
				b.Error(err)
				return
			}
			if err := s.SendMsg(&message); err != nil {
				b.Error(err)
				return
			}
			if err := s.RecvMsg(&answer); err != nil {
				b.Error(err)
				return
			}
			if err := s.RecvMsg(&answer); err != io.EOF {
				b.Error(err)
				return
			}
		}
	})
}
