package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/policies"
)

// chunkFunc is a policy of the request's chunks.
type chunkFunc func(*policies.Request, policies.Chunk) (policies.Verdict, error)

func (f chunkFunc) OnRequestChunk(_ context.Context, r *policies.Request, c policies.Chunk) (policies.Verdict, error) {
	return f(r, c)
}

// blockingChunk is one that may block.
type blockingChunk struct{ chunkFunc }

func (blockingChunk) MayBlock() {}

// readingChunk is one that only reads.
type readingChunk struct{ chunkFunc }

func (readingChunk) ReadsBodiesOnly() {}

// phased takes part in three phases of the request.
type phased struct {
	requestFunc
	rawBody
	trailers requestFunc
}

func (p phased) OnRequestTrailers(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
	return p.trailers(ctx, r)
}

const (
	onDeny = workerv1.OnFailure_ON_FAILURE_DENY
	onCont = workerv1.OnFailure_ON_FAILURE_CONTINUE
	onSkip = workerv1.OnFailure_ON_FAILURE_SKIP_REMAINING
)

func pass(*policies.Request, policies.Chunk) (policies.Verdict, error) {
	return policies.Continue(), nil
}

// holding holds up to n bytes back at a time.
func holding(n int) chunkFunc {
	return func(_ *policies.Request, c policies.Chunk) (policies.Verdict, error) {
		if !c.Last() {
			c.Hold(min(n, len(c.Bytes())))
		}
		return policies.Continue(), nil
	}
}

// replacing puts new in place of each old, also across the borders of chunks.
func replacing(old, new string) chunkFunc {
	return func(_ *policies.Request, c policies.Chunk) (policies.Verdict, error) {
		in, held := string(c.Bytes()), 0
		for n := min(len(old)-1, len(in)); n > 0 && !c.Last() && held == 0; n-- {
			// What may be the beginning of old, unless it belongs to one that is there.
			if strings.HasPrefix(old, in[len(in)-n:]) && !strings.HasSuffix(strings.ReplaceAll(in, old, strings.Repeat("\x00", len(old))), "\x00") {
				held = n
			}
		}
		c.Hold(held)
		c.Replace([]byte(strings.ReplaceAll(in[:len(in)-held], old, new)))
		return policies.Continue(), nil
	}
}

// numbering puts the number of bytes before it in front of the last chunk; it counts in its state.
func numbering(r *policies.Request, c policies.Chunk) (policies.Verdict, error) {
	n := 0
	if s := r.State(); len(s) > 0 {
		if _, err := fmt.Sscan(string(s), &n); err != nil {
			return policies.Continue(), err
		}
	}
	n += len(c.Bytes())
	r.SetState(fmt.Appendf(nil, "%d", n))
	if c.Last() {
		c.Replace(fmt.Appendf(bytes.Clone(c.Bytes()), "#%d", n))
	}
	return policies.Continue(), nil
}

// stream sends chunks through a chain, as a kernel does, each on whatever run is at hand, and returns what goes on.
func stream(t testing.TB, c *Chain, spoil func(i int, call *workerv1.Call), chunks ...string) (sent []string, last *workerv1.Result) {
	t.Helper()
	var carried []byte
	run := NewRun(testSettings())
	for i, chunk := range chunks {
		call := &workerv1.Call{
			Phase: workerv1.Phase_PHASE_REQUEST_BODY, Headers: headerMap(":method", "POST", ":path", "/"),
			Body: []byte(chunk), EndOfStream: i+1 == len(chunks), Context: carried, WantContext: true,
		}
		if spoil != nil {
			spoil(i, call)
		}
		body := bytes.Clone(call.Body)
		result := proto.CloneOf(execute(t, run, c, call))
		if !bytes.Equal(call.Body, body) {
			t.Fatal("the call's body was written to")
		}
		run.Reset()
		clear(call.Body) // Nothing that lasts may point there.
		before := carried
		carried, last = result.Context, result
		switch {
		case result.Outcome != workerv1.Result_OUTCOME_CONTINUE && result.Outcome != workerv1.Result_OUTCOME_SKIP_REMAINING:
			return sent, result
		case result.BodyReplaced:
			sent = append(sent, string(result.Body))
		default:
			sent = append(sent, string(body))
		}
		if len(before) > 0 && len(carried) == 0 {
			t.Fatalf("chunk %d: the context has become empty, which to the kernel is one that was lost", i)
		}
		var kept workerv1.Context
		if err := proto.Unmarshal(carried, &kept); err != nil {
			t.Fatal(err)
		}
		held := slices.ContainsFunc(kept.States, func(s *workerv1.PolicyState) bool { return len(s.Held) > 0 })
		if result.Holding != held || held && call.EndOfStream {
			t.Fatalf("chunk %d: holding %v, held %v", i, result.Holding, held)
		}
	}
	return sent, last
}

func TestChunks(t *testing.T) {
	failOn := func(text string, otherwise chunkFunc) chunkFunc {
		return func(r *policies.Request, c policies.Chunk) (policies.Verdict, error) {
			if bytes.Contains(c.Bytes(), []byte(text)) {
				c.Replace([]byte("never"))
				r.SetState([]byte("never"))
				return policies.Continue(), errors.New("no")
			}
			return otherwise(r, c)
		}
	}
	decide := func(v policies.Verdict, text string) chunkFunc {
		return func(_ *policies.Request, c policies.Chunk) (policies.Verdict, error) {
			if bytes.Contains(c.Bytes(), []byte(text)) {
				return v, nil
			}
			return policies.Continue(), nil
		}
	}
	upper := chunkFunc(func(_ *policies.Request, c policies.Chunk) (policies.Verdict, error) {
		c.Replace(bytes.ToUpper(c.Bytes()))
		return policies.Continue(), nil
	})
	illegal := func(f func(*policies.Request, policies.Chunk)) chunkFunc {
		return func(r *policies.Request, c policies.Chunk) (policies.Verdict, error) {
			f(r, c)
			return policies.Continue(), nil
		}
	}
	in := []string{"ab", "cd", "", "ef"}
	for _, tt := range []struct {
		name   string
		list   []Policy
		chunks []string
		sent   string // joined with "|"
		want   string // of the last call
	}{
		{"as it is", []Policy{{Instance: chunkFunc(pass)}}, in, "ab|cd||ef", "CONTINUE"},
		{"one after the other", []Policy{{Instance: upper}, {Instance: replacing("BC", "x")}}, in, "A|xD||EF", "CONTINUE"},
		{"blocking", []Policy{{Instance: blockingChunk{upper}, Timeout: time.Minute}}, in, "AB|CD||EF", "CONTINUE"},
		{"held back", []Policy{{Instance: holding(3)}}, in, "|a||bcdef", "CONTINUE"},
		{"what is held back is not there for the next", []Policy{{Instance: holding(9)}, {Instance: chunkFunc(numbering)}}, in, "|||abcdef#6", "CONTINUE"},
		{"state", []Policy{{Instance: chunkFunc(numbering)}, {Instance: chunkFunc(numbering)}}, in, "ab|cd||ef#6#8", "CONTINUE"},
		{"a failure lets what was held back go on", []Policy{{Instance: failOn("c", holding(2)), OnFailure: onCont}, {Instance: upper}}, in, "|ABCD||EF", "CONTINUE"},
		{"and the policy is not asked again", []Policy{{Instance: failOn("b", upper), OnFailure: onCont}}, in, "ab|cd||ef", "CONTINUE"},
		{"nor on a whole flow that goes on", []Policy{{Instance: failOn("b", upper), OnFailure: onCont}, {Instance: chunkFunc(numbering)}}, in, "ab|cd||ef#6", "CONTINUE"},
		{"a failure that denies", []Policy{{Instance: failOn("c", holding(2)), OnFailure: onDeny}}, in, "", "FAILED POLICY_ERROR p0/error"},
		{"a failure that skips", []Policy{{Instance: failOn("b", upper), OnFailure: onSkip}, {Instance: holding(9)}}, []string{"ab"}, "ab", "SKIP_REMAINING POLICY_ERROR p0/error"},
		{"skip lets go what later ones hold back", []Policy{{Instance: decide(policies.SkipRemaining("x"), "c")}, {Instance: holding(9)}}, []string{"ab", "cd"}, "|abcd", "SKIP_REMAINING p0/x"},
		{"denied", []Policy{{Instance: upper}, {Instance: decide(policies.Deny(403, "x"), "C")}}, in, "AB", `IMMEDIATE p1/x 403 content-type=application/json {"error":"Forbidden","code":"X"}`},
		{"a policy that only reads", []Policy{{Instance: readingChunk{upper}, OnFailure: onCont}}, in, "ab|cd||ef", "CONTINUE"},
		{"header change", []Policy{{Instance: illegal(func(r *policies.Request, _ policies.Chunk) { r.SetHeader("a", "b") })}}, in, "", "FAILED POLICY_ERROR p0/illegal_change"},
		{"hold more than there is", []Policy{{Instance: illegal(func(_ *policies.Request, c policies.Chunk) { c.Hold(3) })}}, in, "", "FAILED POLICY_ERROR p0/illegal_change"},
		{"hold less than nothing", []Policy{{Instance: illegal(func(_ *policies.Request, c policies.Chunk) { c.Hold(-1) })}}, in, "", "FAILED POLICY_ERROR p0/illegal_change"},
		{"hold of the last", []Policy{{Instance: illegal(func(_ *policies.Request, c policies.Chunk) { c.Hold(1) })}}, []string{"ab"}, "", "FAILED POLICY_ERROR p0/illegal_change"},
		{"too much put in place", []Policy{{Instance: illegal(func(_ *policies.Request, c policies.Chunk) { c.Replace(make([]byte, limits.MaxBodySize+1)) })}}, in, "", "FAILED POLICY_ERROR p0/illegal_change"},
		{"too much held back", []Policy{{Instance: holding(1 << 20)}}, []string{strings.Repeat("x", limits.MaxStateSize), "y"}, "", "FAILED RESULT_TOO_LARGE /result_too_large"},
		{"too much state", []Policy{{Instance: illegal(func(r *policies.Request, _ policies.Chunk) { r.SetState(make([]byte, limits.MaxStateSize)) })}}, in, "", "FAILED RESULT_TOO_LARGE /result_too_large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sent, last := stream(t, mustCompile(t, false, tt.list...), nil, tt.chunks...)
			if got := strings.Join(sent, "|"); got != tt.sent {
				t.Errorf("%q goes on, want %q", got, tt.sent)
			}
			if got := show(last); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestLimit leaves out the policies from one on, after a chunk of which they hold bytes back.
func TestLimit(t *testing.T) {
	c := mustCompile(t, false, Policy{Instance: replacing("ab", "x")}, Policy{Instance: holding(9)}, Policy{Instance: chunkFunc(numbering)})
	for limit, want := range map[uint32]string{0: "||xcx#3", 1: "|xc|ab", 2: "|xc|x", 3: "||xcx", 4: "||xcx#3"} {
		sent, last := stream(t, c, func(i int, call *workerv1.Call) {
			if i > 0 {
				call.Limit = limit
			}
		}, "ab", "c", "ab")
		if got := strings.Join(sent, "|"); got != want || last.Outcome != workerv1.Result_OUTCOME_CONTINUE {
			t.Errorf("limit %d: %q, want %q; %s", limit, got, want, show(last))
		}
	}
}

// TestAnyCut: in whatever pieces a body comes, the same goes on, and a policy that holds back finds what lies across a border.
func TestAnyCut(t *testing.T) {
	kinds := map[string]func() chunkFunc{
		"pass":      func() chunkFunc { return pass },
		"hold 1":    func() chunkFunc { return holding(1) },
		"hold 5":    func() chunkFunc { return holding(5) },
		"abc":       func() chunkFunc { return replacing("abc", "X") },
		"longer":    func() chunkFunc { return replacing("ab", "<ab>") },
		"nothing":   func() chunkFunc { return replacing("ca", "") },
		"numbering": func() chunkFunc { return numbering },
	}
	names := make([]string, 0, len(kinds))
	for name := range kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	rapid.Check(t, func(rt *rapid.T) {
		body := rapid.StringOfN(rapid.RuneFrom([]rune("abcd")), 0, 30, -1).Draw(rt, "body")
		var list []Policy
		for _, name := range rapid.SliceOfN(rapid.SampledFrom(names), 1, 4).Draw(rt, "policies") {
			list = append(list, Policy{Instance: kinds[name](), OnFailure: onDeny})
		}
		c := mustCompile(t, false, list...)
		whole, _ := stream(t, c, nil, body)
		var cut []string
		for rest := body; ; {
			n := rapid.IntRange(0, len(rest)).Draw(rt, "cut")
			cut, rest = append(cut, rest[:n]), rest[n:]
			if len(rest) == 0 {
				break
			}
		}
		if rapid.Bool().Draw(rt, "empty last") {
			cut = append(cut, "")
		}
		sent, last := stream(t, c, nil, cut...)
		if got, want := strings.Join(sent, ""), strings.Join(whole, ""); got != want {
			rt.Fatalf("in pieces %q, %q goes on; as a whole, %q; %s", cut, got, want, show(last))
		}
	})
}

// TestPhases carries state from the headers to the trailers, and changes each in its phase.
func TestPhases(t *testing.T) {
	add := func(r *policies.Request, s string) { r.SetState(append(bytes.Clone(r.State()), s...)) }
	p := phased{
		requestFunc: func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			add(r, "h")
			r.SetTrailer("x", "too early")
			return policies.Continue(), nil
		},
		rawBody: func(r *policies.Request) (policies.Verdict, error) {
			add(r, "b")
			r.SetHeader("x-state", string(r.State()))
			r.SetMethod("PUT")
			r.SetBody(bytes.ToUpper(r.Body()))
			return policies.Continue(), nil
		},
		trailers: func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			old, n := r.Trailer("x-old")
			r.SetTrailer("X-State", string(r.State())+string(old)+fmt.Sprint(n))
			r.AppendTrailer("x-more", "1")
			r.RemoveTrailer("x-old")
			r.RemoveTrailer("x-not-there")
			return policies.Continue(), nil
		},
	}
	early := p
	early.requestFunc = func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
		add(r, "h")
		return policies.Continue(), nil
	}
	late := p
	late.trailers = set("x", "late")
	headers := headerMap(":method", "POST", ":path", "/")
	run := NewRun(testSettings())
	phase := func(c *Chain, call *workerv1.Call, want string) []byte {
		t.Helper()
		defer run.Reset()
		call.Headers, call.WantContext = headers, true
		result := execute(t, run, c, call)
		if got := show(result); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		return bytes.Clone(result.Context)
	}
	phase(mustCompile(t, false, Policy{Instance: p}), &workerv1.Call{Phase: workerv1.Phase_PHASE_REQUEST_HEADERS}, "FAILED POLICY_ERROR p0/illegal_change")
	c := mustCompile(t, false, Policy{Instance: early})
	carried := phase(c, &workerv1.Call{Phase: workerv1.Phase_PHASE_REQUEST_HEADERS}, "CONTINUE")
	carried = phase(c, &workerv1.Call{Phase: workerv1.Phase_PHASE_REQUEST_BODY, Body: []byte("x"), WholeBody: true, EndOfStream: true, Context: carried},
		"CONTINUE SET_HEADER(x-state=hb) SET_METHOD(=PUT)")
	trailers := &workerv1.Call{Phase: workerv1.Phase_PHASE_REQUEST_TRAILERS, Trailers: headerMap("x-old", "o", "x-old", "p"), Context: carried}
	phase(c, trailers, "CONTINUE SET_HEADER(x-state=hbo2) APPEND_HEADER(x-more=1) REMOVE_HEADER(x-old=)")
	phase(mustCompile(t, false, Policy{Instance: late}), trailers, "FAILED POLICY_ERROR p0/illegal_change")
}

// TestFraming: how the body goes is nobody's to say but Envoy's and the worker's.
func TestFraming(t *testing.T) {
	for _, name := range []string{"content-length", "Transfer-Encoding", "content-ENCODING", "Connection", "upgrade", "te", "trailer", "expect"} {
		for how, f := range map[string]func(*policies.Request){
			"set":              func(r *policies.Request) { r.SetHeader(name, "1") },
			"append":           func(r *policies.Request) { r.AppendHeader(name, "1") },
			"remove":           func(r *policies.Request) { r.RemoveHeader(name) },
			"remove spellings": func(r *policies.Request) { r.RemoveSpellings(name) },
		} {
			l := new(log)
			c := mustCompile(t, false, Policy{Observer: l, Instance: rawBody(func(r *policies.Request) (policies.Verdict, error) {
				f(r)
				return policies.Continue(), nil
			})})
			call := bodyCall([]byte("x"), "content-length", "5", "transfer-encoding", "chunked", "content-encoding", "gzip",
				"connection", "upgrade", "upgrade", "h2c", "te", "trailers", "trailer", "x-a", "expect", "100-continue")
			if got := show(execute(t, NewRun(testSettings()), c, call)); got != "FAILED POLICY_ERROR p0/illegal_change" {
				t.Errorf("%s %s: %s", how, name, got)
			}
			if len(l.failures) != 1 || !strings.Contains(l.failures[0], "only Envoy and the engine set it") {
				t.Errorf("%s %s: %q", how, name, l.failures)
			}
		}
	}
}

func TestBodyWithoutABody(t *testing.T) {
	calls := 0
	c := mustCompile(t, false, Policy{Instance: rawBody(func(r *policies.Request) (policies.Verdict, error) {
		calls++
		if r.HasBody() {
			return policies.Deny(400, "body"), nil
		}
		r.SetBody([]byte("made up"))
		return policies.Continue(), nil
	})})
	call := bodyCall(nil)
	call.NoBody = true
	if got := show(execute(t, NewRun(testSettings()), c, call)); got != "FAILED POLICY_ERROR p0/illegal_change" || calls != 1 {
		t.Errorf("%s after %d calls", got, calls)
	}
}

func TestLoadRefusesBodies(t *testing.T) {
	whole, chunks := mustCompile(t, false, Policy{Instance: rawBody(nil)}), mustCompile(t, false, Policy{Instance: chunkFunc(pass)})
	headersOnly := mustCompile(t, false, Policy{Instance: give(policies.Continue())})
	for name, tt := range map[string]struct {
		chain *Chain
		spoil func(*workerv1.Call)
	}{
		"a chunk for a whole body":  {whole, func(c *workerv1.Call) { c.WholeBody = false }},
		"a whole body that goes on": {whole, func(c *workerv1.Call) { c.EndOfStream = false }},
		"no body with one":          {chunks, func(c *workerv1.Call) { c.NoBody = true }},
		"no body, not whole":        {chunks, func(c *workerv1.Call) { c.NoBody, c.Body, c.WholeBody = true, nil, false }},
		"no body, going on":         {chunks, func(c *workerv1.Call) { c.NoBody, c.Body, c.EndOfStream = true, nil, false }},
		"no policy of bodies":       {headersOnly, func(*workerv1.Call) {}},
		"trailers with a body":      {chunks, func(c *workerv1.Call) { c.Trailers = headerMap("a", "b") }},
		"a body with headers":       {headersOnly, func(c *workerv1.Call) { c.Phase = workerv1.Phase_PHASE_REQUEST_HEADERS }},
		"the other flow":            {chunks, func(c *workerv1.Call) { c.Phase = workerv1.Phase_PHASE_RESPONSE_BODY }},
		"trailers of a flow without any": {chunks, func(c *workerv1.Call) {
			c.Phase, c.Body, c.WholeBody = workerv1.Phase_PHASE_REQUEST_TRAILERS, nil, false
		}},
	} {
		call := bodyCall([]byte("x"))
		tt.spoil(call)
		if err := NewRun(testSettings()).Load(tt.chain, call, time.Now(), time.Now(), new(holds)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzBody throws bodies and contexts at a run: it ends in an error or in an explicit outcome, which the reference implementation can encode, and keeps no byte of a
// body at its end.
func FuzzBody(f *testing.F) {
	held := encodeContext(f, &workerv1.Context{States: []*workerv1.PolicyState{{State: []byte("7"), Held: []byte("ab")}, {Policy: 1, Held: []byte("x"), Out: true}, {Chain: 9}}})
	f.Add([]byte("abcab"), []byte(nil), []byte("gzip"), true, true, false, uint32(0))
	f.Add([]byte("abcab"), held, []byte(""), false, false, false, uint32(2))
	f.Add([]byte(""), held, []byte("br"), true, true, true, uint32(1))
	chunks := mustCompile(f, false, Policy{Instance: replacing("ab", "x"), OnFailure: onCont}, Policy{Instance: holding(3)}, Policy{Instance: chunkFunc(numbering), OnFailure: onCont})
	decoding := mustCompile(f, false, Policy{Instance: chunkFunc(numbering), OnFailure: onCont}, Policy{OnFailure: onCont, Instance: plainBody(func(r *policies.Request) (policies.Verdict, error) {
		r.SetBody(append(bytes.Clone(r.Body()), '!'))
		return policies.Continue(), nil
	})})
	run := NewRun(testSettings())
	f.Fuzz(func(t *testing.T, body, carried, coding []byte, whole, end, none bool, limit uint32) {
		for _, c := range []*Chain{chunks, decoding} {
			call := &workerv1.Call{
				Phase: workerv1.Phase_PHASE_REQUEST_BODY, Headers: headerMap(":method", "POST", "content-encoding", string(coding)),
				Body: body, WholeBody: whole, EndOfStream: end, NoBody: none, Context: carried, WantContext: true, Limit: limit,
			}
			if run.Load(c, call, time.Now(), time.Now(), new(holds)) == nil {
				run.Wait(t.Context())
				result := run.Result()
				if result.Outcome == workerv1.Result_OUTCOME_UNSPECIFIED {
					t.Fatal("no outcome")
				}
				if _, err := proto.Marshal(result); err != nil {
					t.Fatal(err)
				}
			}
			run.Reset()
		}
	})
}
