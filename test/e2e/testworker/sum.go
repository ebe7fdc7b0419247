package main

import (
	"context"
	"encoding/binary"
	"hash/crc32"

	"github.com/policy-engine/policy-engine/policies"
)

// sum reads every byte of a body as it passes, and never replaces one: what a policy that inspects a stream costs at least. Its state is the checksum so far.
type sum struct{}

func newSum(policies.Env, noParams) (*sum, error) { return &sum{}, nil }

// ReadsBodiesOnly implements policies.ReadOnlyBodies.
func (*sum) ReadsBodiesOnly() {}

func (*sum) OnRequestChunk(_ context.Context, r *policies.Request, c policies.Chunk) (policies.Verdict, error) {
	return add(r, c)
}

func (*sum) OnResponseChunk(_ context.Context, r *policies.Response, c policies.Chunk) (policies.Verdict, error) {
	return add(r, c)
}

func add(k interface {
	State() []byte
	SetState([]byte)
}, c policies.Chunk,
) (policies.Verdict, error) {
	var so uint32
	if s := k.State(); len(s) == 4 {
		so = binary.BigEndian.Uint32(s)
	}
	k.SetState(binary.BigEndian.AppendUint32(nil, crc32.Update(so, crc32.IEEETable, c.Bytes())))
	return policies.Continue(), nil
}
