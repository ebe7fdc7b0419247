package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/policy-engine/policy-engine/policies"
)

// chunk does with bodies, chunk by chunk, what its parameters say. What it has counted travels in its state.
type chunk struct{ chunkParams }

type chunkParams struct {
	Name string `json:"name"`
	// Find is replaced by With, also where it begins in one chunk and ends in another.
	Find string `json:"find,omitempty"`
	With string `json:"with,omitempty"`
	// DenyIf refuses a chunk that contains it, FailIf makes the policy fail; neither is looked for across chunks, other than with Find.
	DenyIf string `json:"deny_if,omitempty"`
	FailIf string `json:"fail_if,omitempty"`
	// DenyOver refuses the body when more bytes than that have come.
	DenyOver int `json:"deny_over,omitempty"`
	// Tell puts "[NAME N]" behind the body, N being the number of its bytes.
	Tell bool `json:"tell,omitempty"`
}

func newChunk(_ policies.Env, p chunkParams) (*chunk, error) { return &chunk{p}, nil }

func (c *chunk) OnRequestChunk(_ context.Context, r *policies.Request, p policies.Chunk) (policies.Verdict, error) {
	return c.onChunk(r, p)
}

func (c *chunk) OnResponseChunk(_ context.Context, r *policies.Response, p policies.Chunk) (policies.Verdict, error) {
	return c.onChunk(r, p)
}

// keeper is what requests and responses have in common.
type keeper interface {
	State() []byte
	SetState([]byte)
}

func (c *chunk) onChunk(k keeper, p policies.Chunk) (policies.Verdict, error) {
	count := counted(k)
	in := p.Bytes()
	count.total += len(in) - count.held
	switch {
	case c.DenyIf != "" && bytes.Contains(in, []byte(c.DenyIf)), c.DenyOver > 0 && count.total > c.DenyOver:
		return policies.Deny(403, "bad_chunk"), nil
	case c.FailIf != "" && bytes.Contains(in, []byte(c.FailIf)):
		return policies.Continue(), errors.New("could not decide")
	}
	count.held = 0
	if c.Find != "" {
		if !p.Last() {
			count.held = beginning(in, c.Find)
			p.Hold(count.held)
		}
		if out := in[:len(in)-count.held]; bytes.Contains(out, []byte(c.Find)) {
			p.Replace(bytes.ReplaceAll(out, []byte(c.Find), []byte(c.With)))
		}
	}
	if c.Tell && p.Last() {
		p.Replace(fmt.Appendf(bytes.Clone(in), "[%s %d]", c.Name, count.total))
	}
	k.SetState(fmt.Appendf(nil, "%d %d", count.total, count.held))
	return policies.Continue(), nil
}

// count is what has come of a body, and what of it is held back, in bytes.
type count struct{ total, held int }

func counted(k keeper) (c count) {
	if s := k.State(); len(s) > 0 {
		if _, err := fmt.Sscanf(string(s), "%d %d", &c.total, &c.held); err != nil {
			panic(err)
		}
	}
	return c
}

// beginning is how many bytes at the end of in may be the beginning of word.
func beginning(in []byte, word string) int {
	for n := min(len(in), len(word)-1); n > 0; n-- {
		if string(in[len(in)-n:]) == word[:n] {
			return n
		}
	}
	return 0
}

// watch is chunk that never replaces anything, and tells in trailers what it has counted.
type watch struct{ chunk }

func newWatch(_ policies.Env, p chunkParams) (*watch, error) { return &watch{chunk{p}}, nil }

// ReadsBodiesOnly implements policies.ReadOnlyBodies.
func (*watch) ReadsBodiesOnly() {}

func (w *watch) OnRequestTrailers(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	r.SetTrailer("x-watch-"+w.Name, fmt.Sprint(counted(r).total))
	return policies.Continue(), nil
}

func (w *watch) OnResponseTrailers(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	r.SetTrailer("x-watch-"+w.Name, fmt.Sprint(counted(r).total))
	return policies.Continue(), nil
}
