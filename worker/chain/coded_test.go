package chain

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/policies"
)

// plainBody is a policy that wants bodies without their codings.
type plainBody func(*policies.Request) (policies.Verdict, error)

func (f plainBody) OnRequestBody(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	return f(r)
}
func (plainBody) DecodesBodies() {}

// rawBody is one that takes them as they come.
type rawBody func(*policies.Request) (policies.Verdict, error)

func (f rawBody) OnRequestBody(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	return f(r)
}

// plainChunk takes chunks without codings, and answers.
type plainChunk struct{ answer func(policies.Chunk) }

func (p plainChunk) OnResponseChunk(_ context.Context, _ *policies.Response, c policies.Chunk) (policies.Verdict, error) {
	p.answer(c)
	return policies.Continue(), nil
}
func (plainChunk) DecodesBodies() {}

// codeAs applies a coding.
func codeAs(t testing.TB, coding string, body []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	switch coding {
	case "gzip":
		w = gzip.NewWriter(&out)
	case "deflate":
		w = zlib.NewWriter(&out)
	case "raw":
		w, _ = flate.NewWriter(&out, 6)
	case "br":
		w = brotli.NewWriterLevel(&out, 1)
	default:
		return body
	}
	if _, err := w.Write(body); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func decodeAs(t testing.TB, coding string, body []byte) string {
	t.Helper()
	var r io.Reader = bytes.NewReader(body)
	var err error
	switch coding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "deflate":
		r, err = zlib.NewReader(r)
	case "raw":
		r = flate.NewReader(r)
	case "br":
		r = brotli.NewReader(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("what goes on has not the coding that its header says: %v", err)
	}
	return string(out)
}

func bodyCall(body []byte, headers ...string) *workerv1.Call {
	headers = append([]string{":method", "POST", ":path", "/", "etag", `"1"`, "content-digest", "sha-256=:x:"}, headers...)
	return &workerv1.Call{
		Phase: workerv1.Phase_PHASE_REQUEST_BODY, Headers: headerMap(headers...), Body: body, WholeBody: true, EndOfStream: true, WantContext: true,
	}
}

func TestCodedBodies(t *testing.T) {
	const text = "hello hello hello"
	const dropped = " REMOVE_HEADER(etag=) REMOVE_HEADER(content-digest=)"
	var seen []string
	look := plainBody(func(r *policies.Request) (policies.Verdict, error) {
		seen = append(seen, string(r.Body()))
		return policies.Continue(), nil
	})
	change := plainBody(func(r *policies.Request) (policies.Verdict, error) {
		seen = append(seen, string(r.Body()))
		r.SetBody(append(bytes.Clone(r.Body()), '!'))
		return policies.Continue(), nil
	})
	fail := plainBody(func(r *policies.Request) (policies.Verdict, error) {
		r.SetBody([]byte("never"))
		return policies.Continue(), errors.New("no")
	})
	digest := plainBody(func(r *policies.Request) (policies.Verdict, error) {
		r.SetBody([]byte("other"))
		r.SetHeader("content-digest", "sha-256=:y:")
		return policies.Continue(), nil
	})
	other := rawBody(func(r *policies.Request) (policies.Verdict, error) {
		r.SetBody(codeAs(t, "gzip", []byte("other")))
		return policies.Continue(), nil
	})
	wire := rawBody(func(r *policies.Request) (policies.Verdict, error) {
		seen = append(seen, "coded:"+decodeAs(t, "gzip", r.Body()))
		return policies.Continue(), nil
	})
	const cont = workerv1.OnFailure_ON_FAILURE_CONTINUE
	for _, tt := range []struct {
		name, coding string // what is sent
		header       string
		list         []Policy
		want         string
		seen         string
		body         string // "" if it is not replaced
	}{
		{"identity", "", "identity", []Policy{{Instance: look}}, "CONTINUE", text, ""},
		{"gzip, as it was", "gzip", "gzip", []Policy{{Instance: look}}, "CONTINUE", text, ""},
		{"x-gzip", "gzip", "X-GZip", []Policy{{Instance: look}}, "CONTINUE", text, ""},
		{"gzip, replaced", "gzip", "gzip", []Policy{{Instance: change}}, "CONTINUE" + dropped, text, text + "!"},
		{"gzip, replaced twice", "gzip", "gzip", []Policy{{Instance: change}, {Instance: change}}, "CONTINUE" + dropped, text + " " + text + "!", text + "!!"},
		{"deflate, replaced", "deflate", "deflate", []Policy{{Instance: change}}, "CONTINUE" + dropped, text, text + "!"},
		{"raw deflate, replaced", "raw", "deflate", []Policy{{Instance: change}}, "CONTINUE" + dropped, text, text + "!"},
		{"br, replaced", "br", "br", []Policy{{Instance: change}}, "CONTINUE" + dropped, text, text + "!"},
		{"a digest of its own", "gzip", "gzip", []Policy{{Instance: digest}}, "CONTINUE SET_HEADER(content-digest=sha-256=:y:) REMOVE_HEADER(etag=)", "", "other"},
		{"coded policy after one that changed", "gzip", "gzip", []Policy{{Instance: change}, {Instance: wire}}, "CONTINUE" + dropped, text + " coded:" + text + "!", text + "!"},
		{"coded policy that replaces", "gzip", "gzip", []Policy{{Instance: look}, {Instance: other}, {Instance: look}}, "CONTINUE" + dropped, text + " other", "other"},
		{"a failure changes nothing", "gzip", "gzip", []Policy{{Instance: fail, OnFailure: cont}, {Instance: look}}, "CONTINUE", text, ""},
		{"unknown", "", "compress", []Policy{{Instance: look, OnFailure: cont}}, "FAILED BODY_CODING /body_coding", "", ""},
		{"unknown, for one that does not decode", "", "compress", []Policy{{Instance: rawBody(look)}}, "CONTINUE", text, ""},
		{"unknown, after one that does not decode", "", "compress", []Policy{{Instance: rawBody(look)}, {Instance: look, OnFailure: cont}}, "FAILED BODY_CODING /body_coding", text, ""},
		{"plain, said to be gzip", "", "gzip", []Policy{{Instance: look, OnFailure: cont}}, "FAILED BODY_CODING /body_coding", "", ""},
		{"four", "gzip", "gzip, gzip, gzip, gzip", []Policy{{Instance: look, OnFailure: cont}}, "FAILED BODY_CODING /body_coding", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seen = nil
			run := NewRun(testSettings())
			result := execute(t, run, mustCompile(t, false, tt.list...), bodyCall(codeAs(t, tt.coding, []byte(text)), "content-encoding", tt.header))
			if got := show(result); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if got := strings.Join(seen, " "); got != tt.seen {
				t.Errorf("the policies see %q, want %q", got, tt.seen)
			}
			if result.BodyReplaced != (tt.body != "") {
				t.Fatalf("replaced: %v", result.BodyReplaced)
			}
			if tt.body != "" {
				if got := decodeAs(t, tt.coding, result.Body); got != tt.body {
					t.Errorf("%q goes on, want %q", got, tt.body)
				}
			}
		})
	}
}

// TestSeveralCodings are two fields, and codings one over the other.
func TestSeveralCodings(t *testing.T) {
	body := codeAs(t, "br", codeAs(t, "gzip", []byte("hello")))
	c := mustCompile(t, false, Policy{Instance: plainBody(func(r *policies.Request) (policies.Verdict, error) {
		r.SetBody(bytes.ToUpper(r.Body()))
		return policies.Continue(), nil
	})})
	for _, lines := range [][]string{
		{"content-encoding", "gzip, br"},
		{"content-encoding", "gzip", "content-encoding", "br"},
		{"Content-Encoding", " ,GZIP ,, identity,Br"},
	} {
		run := NewRun(testSettings())
		result := execute(t, run, c, bodyCall(body, lines...))
		if got := decodeAs(t, "gzip", []byte(decodeAs(t, "br", result.Body))); got != "HELLO" {
			t.Errorf("%q: %q", lines, got)
		}
	}
}

// TestBombs: no on_failure lets one pass, and no policy sees it.
func TestBombs(t *testing.T) {
	c := mustCompile(t, false, Policy{OnFailure: workerv1.OnFailure_ON_FAILURE_CONTINUE, Instance: plainBody(func(*policies.Request) (policies.Verdict, error) {
		panic("a policy is given a bomb")
	})})
	for _, coding := range []string{"gzip", "deflate", "br"} {
		for _, size := range []int{limits.MaxBodySize + 1, 8 << 20} {
			result := execute(t, NewRun(testSettings()), c, bodyCall(codeAs(t, coding, make([]byte, size)), "content-encoding", coding))
			if got := show(result); got != "FAILED BODY_TOO_LARGE /body_too_large" {
				t.Errorf("%s of %d bytes: %s", coding, size, got)
			}
		}
	}
}

// TestNoBodyHasNoCoding: HEAD, 204 and 304 tell the coding of a body that there is not.
func TestNoBodyHasNoCoding(t *testing.T) {
	c := mustCompile(t, false, Policy{Instance: plainBody(func(r *policies.Request) (policies.Verdict, error) {
		if r.HasBody() || len(r.Body()) > 0 {
			return policies.Continue(), errors.New("there is a body")
		}
		return policies.Continue(), nil
	})})
	call := bodyCall(nil, "content-encoding", "gzip")
	call.NoBody = true
	if got := show(execute(t, NewRun(testSettings()), c, call)); got != "CONTINUE" {
		t.Error(got)
	}
}

// TestChunkOfACodedBody: a policy that wants bodies decoded must not get a piece that is not.
func TestChunkOfACodedBody(t *testing.T) {
	var seen string
	c := mustCompile(t, true, Policy{Instance: plainChunk{func(c policies.Chunk) { seen = string(c.Bytes()) }}})
	call := &workerv1.Call{Phase: workerv1.Phase_PHASE_RESPONSE_BODY, RequestHeaders: headerMap(":path", "/"), Headers: headerMap(":status", "200", "content-encoding", "gzip")}
	call.Body = codeAs(t, "gzip", []byte("hello"))
	for _, coding := range []string{"gzip", "compress"} {
		call.Headers = headerMap(":status", "200", "content-encoding", coding)
		run := NewRun(testSettings())
		if err := run.Load(c, call, run.settings.Now(), run.settings.Now(), new(holds)); err == nil {
			t.Errorf("%s: a chunk of a coded body runs", coding)
		}
	}
	call.Headers = headerMap(":status", "200", "content-encoding", "gzip")
	call.WholeBody, call.EndOfStream = true, true
	if got := show(execute(t, NewRun(testSettings()), c, call)); got != "CONTINUE" || seen != "hello" {
		t.Errorf("%s; the policy sees %q", got, seen)
	}
}
