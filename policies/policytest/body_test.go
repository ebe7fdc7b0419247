package policytest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
)

// shout writes every "a" of a body in upper case, also of "aa" across a chunk border as one "A"; it fails on "!" and refuses "?".
type shout struct{}

func (shout) OnRequestChunk(_ context.Context, r *policies.Request, c policies.Chunk) (policies.Verdict, error) {
	b := bytes.Clone(c.Bytes())
	r.SetState(append(r.State(), byte('0'+len(b))))
	if !c.Last() && bytes.HasSuffix(b, []byte("a")) {
		c.Hold(1)
		b = b[:len(b)-1]
	}
	c.Replace(bytes.ReplaceAll(b, []byte("aa"), []byte("A")))
	switch {
	case bytes.Contains(b, []byte("!")):
		return policies.Continue(), errors.New("could not decide")
	case bytes.Contains(b, []byte("?")):
		return policies.Deny(403, "question"), nil
	}
	return policies.Continue(), nil
}

func shoutDefinition() policies.Definition {
	return policies.Define("shout", "1", func(policies.Env, struct{}) (shout, error) { return shout{}, nil })
}

func wholeDefinition() policies.Definition {
	return policies.Define("whole", "1", func(policies.Env, struct{}) (whole, error) { return whole{}, nil })
}

func TestExamplesWithBodies(t *testing.T) {
	RunExamples(t, "testdata/bodies.md", shoutDefinition(), NewEnv(t), wholeDefinition())
}

func TestExamplesWithBodiesThatDoNotHold(t *testing.T) {
	for name, c := range map[string]struct{ http, want string }{
		"body":              {"POST /\n@body xaay\n→ continue\n@body xaay", `["xAy"] goes on, want ["xaay"]`},
		"chunks":            {"POST /\n@chunk xa\n@chunk ay\n→ continue\n@chunk xA\n@chunk y", `["x" "Ay"] goes on, want ["xA" "y"]`},
		"number of chunks":  {"POST /\n@chunk a\n@chunk b\n→ continue\n@chunk ab", "goes on, want"},
		"unchanged":         {"POST /\n@body xaay\n→ continue unchanged", "which is not unchanged"},
		"refused":           {"POST /\n@body ?\n→ continue", `the outcome is "403 question"`},
		"nobody takes part": {"POST /\n→ continue", "no policy takes part"},
		"nothing is sent":   {"POST /\n@body ?\n→ 403\n@body ?", `[""] goes on, want ["?"]`},
	} {
		t.Run(name, func(t *testing.T) {
			examples, err := parseExamples("## Examples\n```yaml\npolicy: shout\n```\n```http\n" + c.http + "\n```\n")
			if err != nil {
				t.Fatal(err)
			}
			problems := record(t, func(r testing.TB) {
				examples[0].run(r, NewEnv(t), "example", map[string]policies.Definition{"shout": shoutDefinition()})
			})
			if !strings.Contains(problems, c.want) {
				t.Errorf("reported %q, want %q", problems, c.want)
			}
		})
	}
}

// keeper keeps the slices of an identity.
type keeper struct{ scopes []string }

func (k *keeper) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	k.scopes = r.Identity().Scopes
	return policies.Continue(), nil
}

// TestSlicesOfIdentities: a policy that keeps one finds nothing in it.
func TestSlicesOfIdentities(t *testing.T) {
	k, mine := &keeper{}, &policies.Identity{Subject: "alice", Scopes: []string{"a"}}
	r := Run(t, k, Request{Identity: mine})
	if k.scopes[0] != "" || r.Identity.Scopes[0] != "a" || mine.Scopes[0] != "a" {
		t.Errorf("kept %q, result %q, given %q", k.scopes, r.Identity.Scopes, mine.Scopes)
	}
}

func TestStream(t *testing.T) {
	for _, tt := range []struct {
		name   string
		chunks []string
		body   string
		state  string
		want   string
	}{
		{"one chunk", []string{"xaay"}, "xAy", "4", "continue unchanged"},
		{"across a border", []string{"xa", "ay", "z"}, "xAyz", "231", "continue unchanged"},
		{"held back at the end", []string{"xa", ""}, "xa", "21", "continue unchanged"},
		{"a failure lets go what was held back", []string{"xa", "!"}, "xa!", "2", "error could not decide"},
		{"refused", []string{"xa", "?", "y"}, "xa?", "22", "403 question"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := NewExchange(Request{Body: true})
			r := e.Stream(t, shout{}, tt.chunks...)
			if r.String() != tt.want || r.Body != tt.body || string(e.of(shout{}).state) != tt.state {
				t.Errorf("%v, body %q, state %q; want %s, %q, %q", r, r.Body, e.of(shout{}).state, tt.want, tt.body, tt.state)
			}
		})
	}
}

// whole puts the trailers' and the body's lengths into headers, where it may.
type whole struct{}

func (whole) OnRequestBody(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	if r.HasBody() {
		r.SetHeader("x-seen", string(r.Body()))
		r.SetBody([]byte("other"))
	}
	return policies.Continue(), nil
}

func (whole) OnResponseBody(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	r.SetStatus(203)
	r.SetBody(append(bytes.Clone(r.Body()), '!'))
	return policies.Continue(), nil
}

func (whole) OnResponseTrailers(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	if v, n := r.Trailer("grpc-status"); n == 1 {
		r.SetTrailer("x-status", string(v))
	}
	r.RemoveTrailer("x-gone")
	return policies.Continue(), nil
}

func TestWholeBodies(t *testing.T) {
	e := NewExchange(Request{Body: true})
	r := e.OnRequestBody(t, whole{}, "hello")
	if v, _ := r.Header("x-seen"); v != "hello" || r.Body != "other" || !r.Replaced {
		t.Errorf("%v %q %q", r, v, r.Body)
	}
	e.Respond(Response{Body: true})
	if r := e.OnResponseBody(t, whole{}, "answer"); r.Body != "answer!" || !r.Continued() {
		t.Errorf("%v %q", r, r.Body)
	}
	r = e.OnResponseTrailers(t, whole{}, "grpc-status: 0", "x-gone: 1")
	if v, _ := r.Header("x-status"); v != "0" || len(r.Headers) != 2 {
		t.Errorf("%v %v", r, r.Headers)
	}
	e = NewExchange(Request{})
	if r := e.OnRequestBody(t, whole{}, ""); r.String() != "continue unchanged" || r.Replaced {
		t.Errorf("without a body: %v", r)
	}
	e.Respond(Response{})
	if r := e.OnResponseBody(t, whole{}, ""); r.Err == nil || r.Body != "" {
		t.Errorf("a body given to a response without one: %v", r)
	}
}
