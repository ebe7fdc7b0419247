package workers

import (
	"encoding/binary"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// batchCodec encodes batches of calls and decodes batches of results, as a connection does it, without a socket.
type batchCodec struct {
	conn      *conn
	session   *session
	calls     []*route.Call
	headers   []byte
	results   []byte
	result    workerv1.Result
	completed int
}

func newBatchCodec(t testing.TB, size int) *batchCodec {
	c := &batchCodec{conn: newConn(nil, time.Hour, func() { t.Error("a result without a call") }), headers: benchHeaders()}
	t.Cleanup(func() { c.conn.close(route.ErrUnavailable) })
	c.conn.sequence = 1 << 30 // So that all ids of a test are of the same length, see answerIDs.
	c.session = &session{serving: true, conns: []*conn{c.conn}}
	c.session.held.Store(&[]uint64{5})
	for range size {
		c.calls = append(c.calls, &route.Call{Done: c})
	}
	return c
}

// Complete implements route.Completer.
func (c *batchCodec) Complete(_ *route.Call, r *workerv1.Result, err error) {
	if err == nil && r.Subject == "alice" && len(r.Mutations) == 2 {
		c.completed++
	}
}

func (c *batchCodec) encode(t testing.TB) {
	c.conn.pending = c.conn.pending[:0]
	for _, call := range c.calls {
		call.Progress = route.Progress{Deadline: time.Since(c.conn.epoch) + time.Hour}
		call.Message = workerv1.Call{Generation: 5, Chain: 1, Phase: workerv1.Phase_PHASE_REQUEST_HEADERS, Headers: c.headers}
	}
	if n := c.conn.submitAll(c.session, c.calls, time.Since(c.conn.epoch), maxInFlight); n != len(c.calls) {
		t.Fatalf("%d calls were taken", n)
	}
}

// answer makes the batch of results that a worker would send.
func (c *batchCodec) answer(t testing.TB) {
	r := &workerv1.Result{
		Outcome: workerv1.Result_OUTCOME_CONTINUE,
		Subject: "alice",
		Mutations: []*workerv1.Mutation{
			{Kind: workerv1.Mutation_KIND_SET_HEADER, Name: "x-user-id", Value: []byte("alice")},
			{Kind: workerv1.Mutation_KIND_REMOVE_HEADER, Name: "x-api-key"},
		},
		Context: make([]byte, 60),
	}
	c.results = c.results[:0]
	for _, call := range c.calls {
		r.Id = call.Message.Id
		encoded, err := r.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		c.results = protowire.AppendBytes(protowire.AppendTag(c.results, 1, protowire.BytesType), encoded)
	}
}

// answerIDs puts the ids of the calls that were encoded last into the batch of results.
func (c *batchCodec) answerIDs() {
	rest := c.results
	for _, call := range c.calls {
		_, n := binary.Uvarint(rest[1:]) // After the tag.
		size, _ := binary.Uvarint(rest[1:])
		result := rest[1+n : 1+n+int(size)]
		_, width := binary.Uvarint(result[1:]) // Result.id is its first field.
		binary.PutUvarint(result[1:1+width], call.Message.Id)
		rest = rest[1+n+int(size):]
	}
}

func (c *batchCodec) decode(t testing.TB) {
	c.completed = 0
	if err := c.conn.complete(&c.result, c.results); err != nil || c.completed != len(c.calls) {
		t.Fatal(c.completed, err)
	}
}

// TestBatchCodecDoesNotAllocate: a run is a batch of 64 calls, so that an allocation for each call shows as 64.
func TestBatchCodecDoesNotAllocate(t *testing.T) {
	c := newBatchCodec(t, 64)
	run := func() {
		c.encode(t)
		c.answerIDs()
		c.decode(t)
	}
	c.encode(t)
	c.answer(t)
	c.decode(t)
	if n := testing.AllocsPerRun(500, run); n != 0 {
		t.Errorf("%v allocations per batch", n)
	}
}

// BenchmarkBatchCodec is the encoding of 64 calls and the decoding of their results. An op is a batch.
func BenchmarkBatchCodec(b *testing.B) {
	c := newBatchCodec(b, 64)
	c.encode(b)
	c.answer(b)
	c.decode(b)
	b.ReportAllocs()
	for b.Loop() {
		c.encode(b)
		c.answerIDs()
		c.decode(b)
	}
}
