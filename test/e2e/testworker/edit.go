package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

// edit does in the header phases what its parameters say, editBody with whole bodies, editChunks with chunks, editTrailers in the trailers phases. Where they stand, in
// the request flow or in the response flow, tells which.
type (
	edit         struct{ script }
	editBody     struct{ script }
	editChunks   struct{ script }
	editTrailers struct{ script }
)

type script struct{ editParams }

type editParams struct {
	// If is a header of the request without which nothing is done.
	If string `json:"if,omitempty"`
	// Do has steps: a word, and what it needs, in which escapes are as in Go's strings.
	Do []string `json:"do"`
}

func newEdit(_ policies.Env, p editParams) (*edit, error)         { return &edit{script{p}}, nil }
func newEditBody(_ policies.Env, p editParams) (*editBody, error) { return &editBody{script{p}}, nil }

func newEditChunks(_ policies.Env, p editParams) (*editChunks, error) {
	return &editChunks{script{p}}, nil
}

func newEditTrailers(_ policies.Env, p editParams) (*editTrailers, error) {
	return &editTrailers{script{p}}, nil
}

func (e *edit) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	return e.run(r, onRequest{r}, nil)
}

func (e *edit) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	return e.run(r.Request(), onResponse{r}, nil)
}

func (e *editBody) OnRequestBody(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	return e.run(r, onRequest{r}, r.SetBody)
}

func (e *editBody) OnResponseBody(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	return e.run(r.Request(), onResponse{r}, r.SetBody)
}

// What a chunk has before its bytes are known to be the last can't be judged, so a script for chunks runs on those that have the word in If.
func (e *editChunks) OnRequestChunk(_ context.Context, r *policies.Request, c policies.Chunk) (policies.Verdict, error) {
	return e.chunk(c)
}

func (e *editChunks) OnResponseChunk(_ context.Context, _ *policies.Response, c policies.Chunk) (policies.Verdict, error) {
	return e.chunk(c)
}

func (e *editChunks) chunk(c policies.Chunk) (policies.Verdict, error) {
	if !strings.Contains(string(c.Bytes()), e.If) {
		return policies.Continue(), nil
	}
	return e.steps(piece{c}, c.Replace)
}

func (e *editTrailers) OnRequestTrailers(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	return e.run(r, trailers{r}, nil)
}

func (e *editTrailers) OnResponseTrailers(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	return e.run(r.Request(), trailers{r}, nil)
}

// editable is what a step may change.
type editable interface {
	SetHeader(name, value string)
	AppendHeader(name, value string)
	RemoveHeader(name string)
	other(step, value string) bool
}

type onRequest struct{ *policies.Request }

func (r onRequest) other(step, value string) bool {
	switch step {
	case "path":
		r.SetPath(value)
	case "reroute":
		r.SetPathAndRoute(value)
	case "method":
		r.SetMethod(value)
	case "identity":
		r.SetIdentity(policies.Identity{Subject: value, Method: "edit"})
	case "metadata":
		r.SetMetadata("edit", value)
	default:
		return false
	}
	return true
}

type onResponse struct{ *policies.Response }

func (r onResponse) other(step, value string) bool {
	if step != "status" {
		return false
	}
	status, err := strconv.Atoi(value)
	r.SetStatus(status)
	return err == nil
}

// trailers are edited as headers are.
type trailers struct {
	of interface {
		SetTrailer(name, value string)
		AppendTrailer(name, value string)
		RemoveTrailer(name string)
	}
}

func (t trailers) SetHeader(name, value string)    { t.of.SetTrailer(name, value) }
func (t trailers) AppendHeader(name, value string) { t.of.AppendTrailer(name, value) }
func (t trailers) RemoveHeader(name string)        { t.of.RemoveTrailer(name) }
func (t trailers) other(string, string) bool       { return false }

// piece is a chunk, which has no headers.
type piece struct{ of policies.Chunk }

func (c piece) SetHeader(string, string)    {}
func (c piece) AppendHeader(string, string) {}
func (c piece) RemoveHeader(string)         {}
func (c piece) other(step, value string) bool {
	n, err := strconv.Atoi(value)
	if step != "hold" || err != nil {
		return false
	}
	if !c.of.Last() {
		c.of.Hold(min(n, len(c.of.Bytes())))
	}
	return true
}

func (s *script) run(r *policies.Request, on editable, setBody func([]byte)) (policies.Verdict, error) {
	if _, n := r.Header(s.If); s.If != "" && n == 0 {
		return policies.Continue(), nil
	}
	return s.steps(on, setBody)
}

func (s *script) steps(on editable, setBody func([]byte)) (policies.Verdict, error) {
	verdict := policies.Continue()
	for _, line := range s.Do {
		step, rest, _ := strings.Cut(line, " ")
		rest, err := strconv.Unquote(`"` + rest + `"`)
		if err != nil {
			return verdict, fmt.Errorf("step %q: %w", line, err)
		}
		first, second, _ := strings.Cut(rest, " ")
		switch {
		case step == "set":
			on.SetHeader(first, second)
		case step == "append":
			on.AppendHeader(first, second)
		case step == "remove":
			on.RemoveHeader(first)
		case step == "body" && setBody != nil:
			setBody([]byte(rest))
		case step == "grpc":
			code, err := strconv.ParseUint(first, 10, 32)
			if err != nil {
				return verdict, err
			}
			verdict = verdict.WithGRPCStatus(uint32(code))
		case step == "with":
			verdict = verdict.WithHeader(first, second)
		case on.other(step, rest):
		default:
			if verdict, err = decide(step, first, second); err != nil {
				return verdict, err
			}
		}
	}
	return verdict, nil
}

// decide makes the verdict of a step that changes nothing.
func decide(step, first, second string) (policies.Verdict, error) {
	switch step {
	case "deny":
		status, err := strconv.Atoi(first)
		return policies.Deny(status, second), err
	case "respond":
		status, err := strconv.Atoi(first)
		return policies.Respond(status, "told_to", "text/plain", []byte(second)), err
	case "skip":
		return policies.SkipRemaining("told_to"), nil
	case "error":
		return policies.Continue(), errors.New("could not decide")
	case "panic":
		panic("told to")
	case "hang":
		return policies.Await(func(ctx context.Context) (policies.Verdict, error) {
			<-ctx.Done()
			return policies.Continue(), ctx.Err()
		}), nil
	}
	return policies.Continue(), fmt.Errorf("there is no step %q", step)
}
