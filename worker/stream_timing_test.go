package worker

import (
	"fmt"
	"log/slog"
	"testing"

	"google.golang.org/grpc"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/codec"
)

// BenchmarkBatch sends batches over the socket, one at a time, on one stream: chains of three policies that set a header, metadata and an identity. The figures are
// per call, and those of the client are in them.
func BenchmarkBatch(b *testing.B) {
	w := startWorker(b, func(s *setup) { s.opts.Poison, s.opts.Log = false, slog.New(slog.DiscardHandler) })
	w.push(b, 5, requestChain(1, policy("set", `{"header":"a","value":"b"}`), policy("set", `{"header":"c","value":"d"}`), policy("set", `{"header":"e","value":"f"}`)))
	for _, size := range []int{1, 10, 50} {
		b.Run(fmt.Sprintf("calls=%d", size), func(b *testing.B) {
			s, err := w.client.Execute(b.Context(), grpc.ForceCodecV2(codec.Codec{}))
			if err != nil {
				b.Fatal(err)
			}
			batch := new(workerv1.CallBatch)
			for id := range uint64(size) {
				batch.Calls = append(batch.Calls, requestCall(id, 5, 1))
			}
			encoded, err := batch.MarshalVT()
			if err != nil {
				b.Fatal(err)
			}
			out, in := codec.Frame{B: encoded}, codec.Frame{}
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += size {
				if err := s.SendMsg(&out); err != nil {
					b.Fatal(err)
				}
				if err := s.RecvMsg(&in); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			var results workerv1.ResultBatch
			if err := results.UnmarshalVT(in.B); err != nil || len(results.Results) != size || results.Results[0].Outcome != workerv1.Result_OUTCOME_CONTINUE {
				b.Fatal(results.Results, err)
			}
		})
	}
}
