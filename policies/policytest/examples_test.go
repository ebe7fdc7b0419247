package policytest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/policies"
)

type greetParams struct {
	Greeting string `json:"greeting"`
}

// greet greets clients by their identity, at most three of them.
type greet struct {
	greeting string
	clock    policies.Clock
	until    time.Time
	greeted  int
}

func (g *greet) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	id := r.Identity()
	switch {
	case string(r.Path()) == "/ignored":
		return policies.Continue(), nil
	case string(r.Path()) == "/broken":
		return policies.Verdict{}, fmt.Errorf("greet: out of words")
	case id == nil:
		return policies.Deny(401, "stranger").WithHeader("www-authenticate", "Greet"), nil
	case id.HasScope("mute"):
		return policies.SkipRemaining("mute"), nil
	case !g.clock.Now().Before(g.until):
		return policies.Deny(403, "late"), nil
	}
	g.greeted++
	org, _ := id.Claim("org")
	r.SetHeader("x-greeting", strings.TrimSpace(g.greeting+" "+id.Subject+" "+org))
	r.RemoveHeader("x-name")
	return policies.Continue(), nil
}

func (g *greet) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	r.SetHeader("x-greeted", fmt.Sprint(g.greeted))
	return policies.Continue(), nil
}

func greetDefinition() policies.Definition {
	return policies.Define("greet", "1", func(env policies.Env, p greetParams) (*greet, error) {
		if p.Greeting == "" {
			return nil, policies.BadParam("greeting", "it is missing")
		}
		return &greet{greeting: p.Greeting, clock: env.Clock(), until: env.Clock().Now().Add(time.Minute)}, nil
	})
}

func TestRunExamples(t *testing.T) {
	RunExamples(t, "testdata/greet.md", greetDefinition(), NewEnv(t))
}

// readme puts an http block into a README with one policy.
func readme(http string) string {
	return "## Examples\n\n```yaml\npolicy: greet\nparams: {greeting: hi}\n```\n\n```http\n" + http + "\n```\n"
}

func TestExamplesThatDoNotHold(t *testing.T) {
	for name, c := range map[string]struct{ http, want string }{
		"outcome":         {"GET /\n→ continue", `the outcome is "401 stranger", want "continue"`},
		"status":          {"GET /\n→ 403", `want "403"`},
		"reason":          {"GET /\n→ 401 late", `want "401 late"`},
		"error":           {"GET /broken\n→ error money", "out of words"},
		"header value":    {"GET /\n@identity al\n→ continue\nx-greeting: hi bo", `are ["hi al"]`},
		"header missing":  {"GET /\n→ 401\nx-other: …", `["…"]`},
		"header count":    {"GET /\n@identity al\n→ continue\nx-greeting: hi al\nx-greeting: hi al", `["hi al" "hi al"]`},
		"header there":    {"GET /\n→ 401\nno www-authenticate", "want none"},
		"body":            {"GET /\n→ 401\n{\"code\": \"LATE\"}", "the body is"},
		"unchanged":       {"GET /\n@identity al\n→ continue unchanged", `the outcome is "continue"`},
		"identity":        {"GET /\n@identity al a\n→ continue\n@identity al b", `the identity is ["al" "a"]`},
		"some identity":   {"GET /\n@identity al a\n→ continue\n@identity", `the identity is ["al" "a"]`},
		"response header": {"GET /\n← 200\n→ continue\nx-greeted: 1", `are ["0"]`},
		"later time":      {"GET /\n@identity al\n@times 2\n→ continue\nGET /\n@wait 1m\n@identity al\n→ continue", "403 late"},
	} {
		t.Run(name, func(t *testing.T) {
			examples, err := parseExamples(readme(c.http))
			if err != nil {
				t.Fatal(err)
			}
			problems := record(t, func(r testing.TB) {
				examples[0].run(r, NewEnv(t), "example", map[string]policies.Definition{"greet": greetDefinition()})
			})
			if !strings.Contains(problems, c.want) {
				t.Errorf("reported %q, want %q", problems, c.want)
			}
		})
	}
}

func TestRefusalThatDoesNotHold(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"accepted": {"## Examples\n```yaml\npolicy: greet\nparams: {greeting: hi}\n```\n```error\ngreeting\n```\n", `without "greeting"`},
		"message":  {"## Examples\n```yaml\npolicy: greet\n```\n```error\nit is too short\n```\n", "it is missing"},
		"built":    {"## Examples\n```yaml\npolicy: greet\n```\n```http\nGET /\n→ continue\n```\n", "build policy"},
		"unknown":  {"## Examples\n```yaml\npolicy: grunt\n```\n```http\nGET /\n→ continue\n```\n", `unknown policy "grunt"; there are greet`},
	} {
		t.Run(name, func(t *testing.T) {
			examples, err := parseExamples(c.text)
			if err != nil {
				t.Fatal(err)
			}
			problems := record(t, func(r testing.TB) {
				examples[0].run(r, NewEnv(t), "example", map[string]policies.Definition{"greet": greetDefinition()})
			})
			if !strings.Contains(problems, c.want) {
				t.Errorf("reported %q, want %q", problems, c.want)
			}
		})
	}
}

func TestMalformedExamples(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"none":              {"# greet\n\nText.\n", "no example"},
		"other section":     {"## Usage\n```yaml\npolicy: greet\n```\n", "no example"},
		"no http":           {"## Examples\n```yaml\npolicy: greet\n```\n", "3: an example has either http blocks or an error block"},
		"http first":        {"## Examples\n```http\nGET /\n→ 200\n```\n", "3: http block before"},
		"yaml":              {"## Examples\n```yaml\npolicy: [\n```\n", "3: yaml"},
		"unknown key":       {"## Examples\n```yaml\npolicy: greet\nparam: {}\n```\n", "field param not found"},
		"empty yaml":        {"## Examples\n```yaml\n```\n", "the yaml block is empty"},
		"no outcome":        {readme("GET /"), "exchange without an outcome"},
		"empty http":        {readme(""), "the http block is empty"},
		"no request line":   {readme("hello"), "9: want a request line"},
		"pseudo-header":     {readme("GET /\n:path: /x\n→ 200"), "10: want :authority or :scheme"},
		"two request lines": {readme("GET /\nGET /\n→ 200"), "10: want a header line"},
		"outcome":           {readme("GET /\n→ maybe"), "10: unknown outcome"},
		"directive":         {readme("GET /\n@sleep 1s\n→ 200"), "10: unknown line"},
		"times":             {readme("GET /\n@times 0\n→ 200"), "10: 0 times"},
		"wait":              {readme("GET /\n@wait soon\n→ 200"), "10: time: invalid duration"},
		"response":          {readme("GET /\n← ok\n→ 200"), "10: want one line such as"},
		"two bodies":        {readme("GET /\n@body a\n@body b\n→ 200"), "11: @body after another line"},
		"body and chunk":    {readme("GET /\n@body a\n@chunk b\n→ 200"), "11: @chunk after another line"},
		"chunk and body":    {readme("GET /\n@chunk a\n@body b\n→ 200"), "11: @body after another line"},
		"chunk and none":    {readme("GET /\n@no-body\n@chunk b\n→ 200"), "11: @chunk after another line"},
		"none with a text":  {readme("GET /\n@no-body b\n→ 200"), "10: want @no-body alone"},
		"quotes":            {readme("GET /\n@body \"\\q\"\n→ 200"), "10: \"\\\"\\\\q\\\"\" is not a text in double quotes"},
		"none expected":     {readme("GET /\n→ 200\n@no-body"), "11: want \"name: value\""},
		"expectation":       {readme("GET /\n→ 200\nwhatever"), "11: want \"name: value\""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseExamples(c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func FuzzParseExamples(f *testing.F) {
	f.Add(readme("GET /\nx: y\n@identity a b\n← 200\nx: y\n→ continue\nx: y\nno z\n{}"))
	f.Fuzz(func(t *testing.T, text string) {
		examples, err := parseExamples(text)
		if err == nil && len(examples) == 0 {
			t.Error("neither an example nor an error")
		}
	})
}
