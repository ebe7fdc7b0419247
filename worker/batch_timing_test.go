package worker

import (
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// batchCodec decodes batches of calls and encodes their results, as a stream does it, without a socket.
type batchCodec struct {
	stream  stream
	encoded []byte
	result  *workerv1.Result
	size    int
}

func newBatchCodec(t testing.TB, size int) *batchCodec {
	c := &batchCodec{size: size, result: &workerv1.Result{
		Outcome: workerv1.Result_OUTCOME_CONTINUE,
		Subject: "alice",
		Mutations: []*workerv1.Mutation{
			{Kind: workerv1.Mutation_KIND_SET_HEADER, Name: "x-user-id", Value: []byte("alice")},
			{Kind: workerv1.Mutation_KIND_REMOVE_HEADER, Name: "x-api-key"},
		},
		Context: make([]byte, 60),
	}}
	for id := range uint64(size) {
		call, err := requestCall(id, 5, 1).MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		c.encoded = protowire.AppendBytes(protowire.AppendTag(c.encoded, 1, protowire.BytesType), call)
	}
	return c
}

func (c *batchCodec) run(t testing.TB) {
	c.stream.batch.ResetVT()
	if err := c.stream.batch.UnmarshalVTUnsafe(c.encoded); err != nil || len(c.stream.batch.Calls) != c.size {
		t.Fatal(len(c.stream.batch.Calls), err)
	}
	c.stream.out = c.stream.out[:0]
	for i, call := range c.stream.batch.Calls {
		if call.Id != uint64(i) || len(call.Headers) == 0 {
			t.Fatalf("call %d is %v", i, call)
		}
		c.result.Id = call.Id
		c.stream.out = appendResult(c.stream.out, c.result)
	}
}

// TestBatchCodecDoesNotAllocate: a run is a batch of 64 calls, so that an allocation for each call shows as 64.
func TestBatchCodecDoesNotAllocate(t *testing.T) {
	c := newBatchCodec(t, 64)
	c.run(t)
	var results workerv1.ResultBatch
	if err := results.UnmarshalVT(c.stream.out); err != nil || len(results.Results) != c.size {
		t.Fatal(len(results.Results), err)
	}
	if n := testing.AllocsPerRun(500, func() { c.run(t) }); n != 0 {
		t.Errorf("%v allocations per batch", n)
	}
}

// BenchmarkBatchCodec is the decoding of 64 calls and the encoding of their results. An op is a batch.
func BenchmarkBatchCodec(b *testing.B) {
	c := newBatchCodec(b, 64)
	c.run(b)
	b.ReportAllocs()
	for b.Loop() {
		c.run(b)
	}
}
