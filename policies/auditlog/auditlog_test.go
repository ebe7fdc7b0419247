package auditlog

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExamples(t *testing.T) {
	policytest.RunExamples(t, "README.md", Definition(), policytest.NewEnv(t))
}

func TestParameters(t *testing.T) {
	var many []string
	for i := range maxNames + 1 {
		many = append(many, fmt.Sprintf(`"h%d"`, i))
	}
	for params, want := range map[string]string{
		`{"file": "audit"}`:                               `file: "audit" is not legal; legal is an absolute path without . and ..`,
		`{"file": "/var/../etc/audit"}`:                   "file: ",
		`{"file": "/var/log/"}`:                           "file: ",
		`{"file": "/a\u0000b"}`:                           "file: ",
		`{"required": true}`:                              "required: there is no file",
		`{"request_headers": [""]}`:                       "request_headers: a name is empty",
		`{"request_headers": [":path"]}`:                  `request_headers: ":path" is not a header`,
		`{"response_headers": ["a b"]}`:                   "response_headers: ",
		`{"response_headers": ["A", "a"]}`:                `response_headers: "a" is there twice`,
		`{"claims": ["a", "a"]}`:                          `claims: "a" is there twice`,
		`{"metadata": [` + strings.Join(many, ",") + `]}`: "metadata: it has 65 names; legal are 64",
		`{"redact": "a"}`:                                 "redact: string is not legal here; want a list",
		`{"headers": []}`:                                 "headers: unknown parameter; legal are file, required, query, request_headers, response_headers, claims, metadata, redact",
	} {
		_, err := Definition().Build(policytest.NewEnv(t), json.RawMessage(params))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %s", params, err, want)
		}
	}
	instance(t, policytest.NewEnv(t), `{"request_headers": ["Host", "x-envoy-a", "envoy-b"], "claims": ["a", "A"]}`)
}

func instance(t testing.TB, env *policytest.Env, params string) *Policy {
	t.Helper()
	return policytest.Build(t, Definition(), env, params).(*Policy)
}

// wait ends the test if the condition does not come true.
func wait(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: it did not come about", what)
		}
	}
}

// written waits until no line is under way.
func (p *Policy) written(t testing.TB) {
	t.Helper()
	wait(t, "all lines are written", func() bool { return len(p.queue.free) == queueLen })
}

func read(t testing.TB, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// fields parses a line strictly.
func fields(t testing.TB, line string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(line))
	var m map[string]any
	if err := d.Decode(&m); err != nil || d.More() || !utf8.ValidString(line) {
		t.Fatalf("%q: %v", line, err)
	}
	return m
}

// What the README says of its configuration.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(language string) string {
		_, rest, _ := strings.Cut(string(text), "```"+language+"\n")
		block, _, _ := strings.Cut(rest, "```")
		return block
	}
	type chain struct {
		Chain []struct{ Params map[string]any } `yaml:"policy_chain"`
	}
	var route struct {
		Request  chain `yaml:"request_flow"`
		Response chain `yaml:"response_flow"`
	}
	if err := yaml.Unmarshal([]byte(block("yaml")), &route); err != nil {
		t.Fatal(err)
	}
	env, file := policytest.NewEnv(t, policytest.WithRoute("orders")), filepath.Join(t.TempDir(), "audit.jsonl")
	build := func(params map[string]any) *Policy {
		params["file"] = file
		raw, err := json.Marshal(params)
		if err != nil {
			t.Fatal(err)
		}
		return instance(t, env, string(raw))
	}
	before, after := build(route.Request.Chain[1].Params), build(route.Response.Chain[0].Params)
	e := policytest.NewExchange(policytest.Request{
		Path: "/orders/7?page=2&api_key=k", Headers: []string{"x-request-id: r-1", "x-forwarded-for: 203.0.113.7", "user-agent: curl/8", "authorization: Bearer x"},
		Identity: &policies.Identity{Subject: "alice", Method: "apiKeyAuth", Issuer: "partners"},
	})
	if got := e.OnRequestHeaders(t, before); got.String() != "continue unchanged" {
		t.Error(got)
	}
	e.Respond(policytest.Response{Headers: []string{"content-type: text/plain"}})
	if got := e.OnResponseHeaders(t, after); got.String() != "continue unchanged" {
		t.Error(got)
	}
	after.written(t)
	var said, does []any
	if err := json.Unmarshal([]byte(block("json")), &said); err != nil {
		t.Fatal(err)
	}
	for _, line := range read(t, file) {
		does = append(does, fields(t, line))
	}
	if !reflect.DeepEqual(said, does) {
		t.Errorf("the README says\n%v\nthe policy\n%v", said, does)
	}
}

func TestLines(t *testing.T) {
	const all = `{"query": true, "request_headers": ["User-Agent", "X-Secret-Thing", "Cookie", "X-Api-Key"], "response_headers": ["set-cookie", "x-b"], "claims": ["org", "password"], "metadata": ["risk", "m_token"], "redact": ["x-secret-thing", "M-Token", "coupon"]}`
	for _, c := range []struct {
		name    string
		request policytest.Request
		want    map[string]any // of the members that are compared
		absent  []string       // texts that are nowhere
	}{
		{"nothing", policytest.Request{}, map[string]any{"identity": nil, "client": nil, "request_id": "", "query": "", "request_headers": map[string]any{}, "metadata": map[string]any{}, "path": "/"}, nil},
		{
			"headers",
			policytest.Request{Headers: []string{"user-agent: a", "user-agent: b", "User-Agent: c", "x-secret-thing: s3", "cookie: s3", "x-api-key: s3", "x-other: s3"}},
			map[string]any{"request_headers": map[string]any{"user-agent": "a (and 2 more)", "x-secret-thing": redacted, "cookie": redacted, "x-api-key": redacted}},
			[]string{"s3"},
		},
		{
			"credentials in the query",
			policytest.Request{Path: "/a?token=s3&Access-Token=s3&api%5Fkey=s3&APIKEY=s3&coupon=s3&x=1;password=s3&%zz=s3&code=s3=s3&page=2&flag&=e"},
			map[string]any{"query": "token=[redacted]&Access-Token=[redacted]&api%5Fkey=[redacted]&APIKEY=[redacted]&coupon=[redacted]&x=1;password=[redacted]&%zz=[redacted]&code=[redacted]&page=2&flag&=e"},
			[]string{"s3"},
		},
		{
			"identity and metadata",
			policytest.Request{
				Identity: &policies.Identity{Subject: `a"b`, Method: "m", Claims: []policies.Entry{{Key: "org", Value: "acme"}, {Key: "password", Value: "s3"}, {Key: "more", Value: "s3"}}},
				Metadata: []policies.Entry{{Key: "risk", Value: "low"}, {Key: "m_token", Value: "s3"}, {Key: "more", Value: "s3"}},
			},
			map[string]any{
				"identity": map[string]any{"subject": `a"b`, "method": "m", "issuer": "", "claims": map[string]any{"org": "acme", "password": redacted}},
				"metadata": map[string]any{"risk": "low", "m_token": redacted},
			},
			[]string{"s3"},
		},
		{
			"forged lines",
			policytest.Request{Method: "GET\"", Authority: "a\\", Path: "/x\"}\n{\"event\":\"forged\"}\r\x1b[2J\x7f\u2028\u202e\u0085é\xff?\"=\"", Headers: []string{"user-agent: \",\"status\":200", "x-request-id: \x00\t"}},
			map[string]any{
				"method": "GET\"", "host": "a\\", "path": "/x\"}\n{\"event\":\"forged\"}\r\x1b[2J\x7f\u2028\u202e\u0085é\ufffd", "query": "\"=\"", "request_id": "\x00\t",
				"request_headers": map[string]any{"user-agent": "\",\"status\":200"},
			},
			[]string{"\r", "\x1b", "\x7f", "\u2028", "\u202e", "\u0085", "\xff"},
		},
		{
			"long",
			policytest.Request{Path: "/" + strings.Repeat("é", 1000) + "?" + strings.Repeat("a=b&", 1000), Headers: []string{"user-agent: " + strings.Repeat("u", 10_000)}},
			map[string]any{"path": "/" + strings.Repeat("é", 256) + "…", "query": strings.Repeat("a=b&", 129) + "…", "request_headers": map[string]any{"user-agent": strings.Repeat("u", 512) + "…"}},
			nil,
		},
		{"addresses", policytest.Request{Headers: []string{"x-forwarded-for: 192.0.2.1, ::ffff:203.0.113.7"}}, map[string]any{"client": "203.0.113.7"}, []string{"192.0.2.1"}},
		{"address behind a proxy", policytest.Request{TrustedHops: 1, Headers: []string{"x-forwarded-for: 198.51.100.7, 192.0.2.1:80, 10.0.0.1"}}, map[string]any{"client": "192.0.2.1"}, []string{"198.51.100.7"}},
		{"Envoy's address", policytest.Request{SourceAddress: "[2001:db8::1]:443", Headers: []string{"x-forwarded-for: 198.51.100.7"}}, map[string]any{"client": "2001:db8::1"}, []string{"198.51.100.7"}},
		{"no address", policytest.Request{Headers: []string{"x-forwarded-for: \"}"}}, map[string]any{"client": nil}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			env, file := policytest.NewEnv(t), filepath.Join(t.TempDir(), "audit")
			p := instance(t, env, strings.Replace(all, "{", `{"file": "`+file+`", `, 1))
			e := policytest.NewExchange(c.request)
			if got := e.OnRequestHeaders(t, p); got.String() != "continue unchanged" {
				t.Error(got)
			}
			e.Respond(policytest.Response{Status: 503, Headers: []string{"set-cookie: s3", "x-b: 1"}})
			if got := e.OnResponseHeaders(t, p); got.String() != "continue unchanged" {
				t.Error(got)
			}
			p.written(t)
			lines := read(t, file)
			if len(lines) != 2 {
				t.Fatalf("%d lines: %q", len(lines), lines)
			}
			first, second := fields(t, lines[0]), fields(t, lines[1])
			for name, want := range c.want {
				if !reflect.DeepEqual(first[name], want) || !reflect.DeepEqual(second[name], want) {
					t.Errorf("%s: %q and %q, want %q", name, first[name], second[name], want)
				}
			}
			if first["event"] != "request" || second["event"] != "response" || second["status"] != 503.0 || first["status"] != nil {
				t.Errorf("%v\n%v", first, second)
			}
			if got := second["response_headers"]; !reflect.DeepEqual(got, map[string]any{"set-cookie": redacted, "x-b": "1"}) {
				t.Errorf("response headers %v", got)
			}
			for _, text := range c.absent {
				if strings.Contains(strings.Join(lines, "\n"), text) {
					t.Errorf("%q is in %q", text, lines)
				}
			}
		})
	}
}

func TestWorkersLog(t *testing.T) {
	env := policytest.NewEnv(t)
	p := instance(t, env, `{}`)
	policytest.Run(t, p, policytest.Request{Path: "/orders?token=s3", Headers: []string{"x-request-id: r-9"}})
	p.written(t)
	log := strings.Join(env.Lines(), "\n")
	if !strings.Contains(log, "msg=audit request_id=r-9") || !strings.Contains(log, `/orders`) || strings.Contains(log, "s3") {
		t.Errorf("the log is %s", log)
	}
}

// stalled is a queue whose lines nobody writes.
func stalled(p *Policy) *queue {
	q := newQueue("/nowhere", policytest.NewClock(policytest.Start), p.log, p.lost)
	_ = q.Close()
	return q
}

func TestFullQueue(t *testing.T) {
	for required, want := range map[bool]string{false: "continue unchanged", true: "error " + errLost.Error()} {
		env := policytest.NewEnv(t)
		p := instance(t, env, fmt.Sprintf(`{"file": %q, "required": %v}`, filepath.Join(t.TempDir(), "a"), required))
		p.queue = stalled(p)
		for range queueLen {
			if got := policytest.Run(t, p, policytest.Request{}); !got.Continued() {
				t.Fatal(got)
			}
		}
		for range 3 {
			if got := policytest.Run(t, p, policytest.Request{}); got.String() != want {
				t.Errorf("required %v: %v, want %s", required, got, want)
			}
			if got := policytest.RunResponse(t, p, policytest.Request{}, policytest.Response{}); got.String() != want {
				t.Errorf("required %v: %v, want %s", required, got, want)
			}
		}
		if n := env.Count("lost"); n != 6 {
			t.Errorf("%d lines are counted as lost, want 6", n)
		}
	}
}

func TestBrokenFile(t *testing.T) {
	env, dir := policytest.NewEnv(t), t.TempDir()
	file := filepath.Join(dir, "logs", "audit")
	params := fmt.Sprintf(`{"file": %q`, file)
	p, lax := instance(t, env, params+`, "required": true}`), instance(t, env, params+`}`)
	if got := policytest.Run(t, p, policytest.Request{Path: "/first"}); !got.Continued() {
		t.Error(got)
	}
	wait(t, "the file is found broken", p.queue.broken.Load)
	for range 3 {
		if got := policytest.Run(t, p, policytest.Request{Path: "/refused"}); got.String() != "error "+errLost.Error() {
			t.Error(got)
		}
	}
	for range queueLen - 1 {
		if got := policytest.Run(t, lax, policytest.Request{Path: "/waits"}); !got.Continued() {
			t.Fatal(got)
		}
	}
	if got := policytest.Run(t, lax, policytest.Request{Path: "/lost"}); !got.Continued() {
		t.Error(got)
	}
	if n := env.Count("lost"); n != 4 {
		t.Errorf("%d lines are counted as lost, want 4", n)
	}
	if err := os.Mkdir(filepath.Join(dir, "logs"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.written(t)
	if lines := read(t, file); len(lines) != queueLen || fields(t, lines[0])["path"] != "/first" || fields(t, lines[queueLen-1])["path"] != "/waits" {
		t.Errorf("%d lines", len(lines))
	}
	if got := policytest.Run(t, p, policytest.Request{}); !got.Continued() {
		t.Error(got)
	}
	p.written(t)
	log := strings.Join(env.Lines(), "\n")
	if strings.Count(log, "audit log can't be written") != 1 || strings.Count(log, "audit log is written again") != 1 {
		t.Errorf("the log is %s", log)
	}
	if s, err := os.Stat(file); err != nil || s.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", s, err)
	}
}

// Building the policy, as checks of a configuration do, makes no file; and the end does not wait for a file that can't be written.
func TestNoFileBeforeTheFirstLine(t *testing.T) {
	env, file := policytest.NewEnv(t), filepath.Join(t.TempDir(), "none", "audit")
	p := instance(t, env, fmt.Sprintf(`{"file": %q}`, file))
	if _, err := os.Stat(filepath.Dir(file)); !os.IsNotExist(err) {
		t.Error(err)
	}
	for range 3 {
		policytest.Run(t, p, policytest.Request{})
	}
	if err := p.queue.Close(); err != nil || env.Count("lost") != 3 {
		t.Errorf("%v, %d lost", err, env.Count("lost"))
	}
}

func TestFilesThatAreNotTaken(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.WriteFile(target, []byte("mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	link, pipe := filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{link, pipe, dir, "/dev/null"} {
		env := policytest.NewEnv(t)
		p := instance(t, env, fmt.Sprintf(`{"file": %q}`, file))
		if got := policytest.Run(t, p, policytest.Request{}); !got.Continued() {
			t.Errorf("%s: %v", file, got)
		}
		wait(t, file+" is refused", p.queue.broken.Load)
		if err := p.queue.Close(); err != nil || env.Count("lost") != 1 {
			t.Errorf("%s: %v, %d lost", file, err, env.Count("lost"))
		}
	}
	if text, err := os.ReadFile(target); err != nil || string(text) != "mine\n" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestRotation(t *testing.T) {
	env, dir := policytest.NewEnv(t), t.TempDir()
	file, old := filepath.Join(dir, "audit"), filepath.Join(dir, "audit.1")
	params := fmt.Sprintf(`{"file": %q}`, file)
	p, other := instance(t, env, params), instance(t, env.At("policy_chain[1]"), params)
	if p.queue != other.queue {
		t.Fatal("two policies with one file have two queues")
	}
	send := func(path string) {
		t.Helper()
		policytest.Run(t, other, policytest.Request{Path: path})
		p.written(t)
	}
	send("/1")
	if err := os.Rename(file, old); err != nil {
		t.Fatal(err)
	}
	send("/2")
	env.Advance(interval)
	send("/3")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	env.Advance(-time.Hour) // A clock that was set back does not stop it.
	send("/4")
	paths := func(file string) (all []string) {
		for _, line := range read(t, file) {
			all = append(all, fields(t, line)["path"].(string))
		}
		return all
	}
	if got := fmt.Sprint(paths(old), paths(file)); got != "[/1 /2] [/4]" {
		t.Errorf("the files have %s", got)
	}
	if env.Count("lost") != 0 {
		t.Errorf("%d lines are lost", env.Count("lost"))
	}
}

func TestCloseWritesWhatWaits(t *testing.T) {
	env, file := policytest.NewEnv(t), filepath.Join(t.TempDir(), "audit")
	p := instance(t, env, fmt.Sprintf(`{"file": %q}`, file))
	for range 500 {
		policytest.Run(t, p, policytest.Request{})
	}
	for range 2 { // It may be closed twice.
		if err := p.queue.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(read(t, file)); n != 500 {
		t.Errorf("%d lines", n)
	}
}

// FuzzLine: whatever a client sends, the line is one line of JSON.
func FuzzLine(f *testing.F) {
	f.Add("/a?b=c", "curl", "r-1")
	f.Add("/\"\\\n\x00\u2028?token=\xff;%zz", "\"}", "\xed\xa0\x80")
	p := &Policy{event: event{clock: policytest.NewClock(policytest.Start), query: true, requestHeaders: []string{"user-agent"}, redact: newNames(nil)}}
	f.Fuzz(func(t *testing.T, path, agent, id string) {
		x := new(policies.Exchange)
		if err := x.BeginRequest("r", policytest.Request{Path: path, Headers: []string{"user-agent: " + agent, "x-request-id: " + id}}.HeaderMap(), true); err != nil {
			t.Skip(err)
		}
		line := string(p.event.ofRequest(nil, x.Request()))
		if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' }) {
			t.Errorf("%q", line)
		}
		if got := fields(t, line); utf8.ValidString(id) && len(id) < maxValue && got["request_id"] != id {
			t.Errorf("request_id %q, want %q", got["request_id"], id)
		}
	})
}

func run(t testing.TB) func() {
	env := policytest.NewEnv(t)
	p := instance(t, env, fmt.Sprintf(`{"file": %q, "query": true, "request_headers": ["user-agent"]}`, filepath.Join(t.TempDir(), "audit")))
	p.queue = stalled(p)
	request := policytest.Request{Path: "/orders?page=2", Headers: []string{"x-request-id: r-1", "user-agent: curl/8", "x-forwarded-for: 203.0.113.7"}}.HeaderMap()
	response := policytest.Response{}.HeaderMap()
	x, ctx, id := new(policies.Exchange), t.Context(), policies.Identity{Subject: "alice", Method: "apiKeyAuth"}
	return func() {
		x.Reset()
		if err := x.BeginRequest("r", request, true); err != nil {
			t.Fatal(err)
		}
		x.ReplayIdentity(id)
		if v, err := p.OnRequestHeaders(ctx, x.Request()); err != nil || !v.IsContinue() {
			t.Fatal(v, err)
		}
		if err := x.BeginResponse(response, true); err != nil {
			t.Fatal(err)
		}
		if v, err := p.OnResponseHeaders(ctx, x.Response()); err != nil || !v.IsContinue() {
			t.Fatal(v, err)
		}
		for range 2 { // As the writer does.
			p.queue.free <- <-p.queue.full
		}
	}
}

func TestNoAllocations(t *testing.T) {
	run := run(t)
	for range queueLen { // Each line has its memory after its first use.
		run()
	}
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkBothFlows(b *testing.B) {
	run := run(b)
	b.ReportAllocs()
	for b.Loop() {
		run()
	}
}
