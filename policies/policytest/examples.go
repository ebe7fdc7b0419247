package policytest

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/policy-engine/policy-engine/policies"
)

// RunExamples runs all examples of a README, each as a subtest. Their policies are made from d, or from more where an example has several. The package's
// documentation describes the format.
func RunExamples(t *testing.T, readme string, d policies.Definition, env *Env, more ...policies.Definition) {
	t.Helper()
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	examples, err := parseExamples(string(text))
	if err != nil {
		t.Fatalf("%s:%v", readme, err)
	}
	definitions := map[string]policies.Definition{d.Name(): d}
	for _, d := range more {
		definitions[d.Name()] = d
	}
	for i, e := range examples {
		t.Run(fmt.Sprintf("line %d", e.line), func(t *testing.T) {
			e.run(t, env, fmt.Sprintf("example[%d]", i), definitions)
		})
	}
}

// example is one yaml block and what follows it.
type example struct {
	line  int // of the yaml block's first line
	flows flows
	// exchanges is empty if refused is not.
	exchanges []exchange
	refused   []string
}

// flows are the chains of a route.
type flows struct {
	request, response []entry
}

type chain struct {
	Policies []entry `yaml:"policy_chain"`
}

// entry is a policy in a chain.
type entry struct {
	Policy string         `yaml:"policy"`
	Params map[string]any `yaml:"params"`
	// What follows is for the engine, not for the policy.
	OnFailure string `yaml:"on_failure"`
	Timeout   string `yaml:"timeout"`
}

// parseFlows reads an entry, a list of entries, or both flows.
func parseFlows(text string) (flows, error) {
	var node yaml.Node
	if err := yaml.Unmarshal([]byte(text), &node); err != nil {
		return flows{}, err
	}
	if len(node.Content) == 0 {
		return flows{}, fmt.Errorf("the yaml block is empty")
	}
	root := node.Content[0]
	if root.Kind == yaml.SequenceNode {
		var chain []entry
		err := strict(text, &chain)
		return flows{chain, chain}, err
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if key := root.Content[i].Value; key == "request_flow" || key == "response_flow" {
			var route struct {
				Request  chain `yaml:"request_flow"`
				Response chain `yaml:"response_flow"`
			}
			err := strict(text, &route)
			return flows{route.Request.Policies, route.Response.Policies}, err
		}
	}
	one := make([]entry, 1)
	err := strict(text, &one[0])
	return flows{one, one}, err
}

func strict(text string, v any) error {
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	return d.Decode(v)
}

// parseExamples finds the examples in a README. Errors begin with the line.
func parseExamples(text string) ([]example, error) {
	var examples []example
	for _, b := range fences(text) {
		var last *example
		if len(examples) > 0 {
			last = &examples[len(examples)-1]
		}
		switch {
		case b.language == "yaml":
			f, err := parseFlows(b.text)
			if err != nil {
				return nil, fmt.Errorf("%d: %w", b.line, err)
			}
			examples = append(examples, example{line: b.line, flows: f})
		case b.language != "http" && b.language != "error":
		case last == nil:
			return nil, fmt.Errorf("%d: %s block before the first yaml block", b.line, b.language)
		case b.language == "http":
			exchanges, err := parseExchanges(b.text, b.line)
			if err != nil {
				return nil, err
			}
			last.exchanges = append(last.exchanges, exchanges...)
		default:
			last.refused = append(last.refused, strings.FieldsFunc(b.text, func(r rune) bool { return r == '\n' })...)
		}
	}
	if len(examples) == 0 {
		return nil, fmt.Errorf("1: no example: a heading \"## Examples\" with a yaml block is missing")
	}
	for _, e := range examples {
		if (len(e.exchanges) == 0) == (len(e.refused) == 0) {
			return nil, fmt.Errorf("%d: an example has either http blocks or an error block", e.line)
		}
	}
	return examples, nil
}

// fence is a fenced code block.
type fence struct {
	language string
	line     int // of its first line
	text     string
}

// fences returns the code blocks under the heading "## Examples".
func fences(text string) []fence {
	var (
		found  []fence
		inside bool // the section
		open   *fence
	)
	for i, line := range strings.Split(text, "\n") {
		switch {
		case open != nil && strings.HasPrefix(line, "```"):
			found, open = append(found, *open), nil
		case open != nil:
			open.text += line + "\n"
		case strings.HasPrefix(line, "## "):
			inside = strings.TrimSpace(line[3:]) == "Examples"
		case inside && strings.HasPrefix(line, "```"):
			open = &fence{language: strings.TrimSpace(line[3:]), line: i + 2}
		case strings.HasPrefix(line, "```"):
			open = &fence{language: "ignored", line: i + 2}
		}
	}
	return found
}

// run builds the example's policies and runs its exchanges.
func (e *example) run(t testing.TB, env *Env, name string, definitions map[string]policies.Definition) {
	t.Helper()
	if len(e.refused) > 0 {
		e.runRefused(t, env.At(name), definitions)
		return
	}
	request := build(t, env, name+".request_flow", e.flows.request, definitions)
	response := build(t, env, name+".response_flow", e.flows.response, definitions)
	for i := range e.exchanges {
		x := &e.exchanges[i]
		env.Advance(x.wait)
		for range x.times {
			x.run(t, e.requestFlow(x, request), response)
		}
	}
}

// requestFlow is empty for the response of an entry that stands in the response flow only.
func (e *example) requestFlow(x *exchange, built []any) []any {
	short := len(e.flows.request) > 0 && len(e.flows.response) > 0 && &e.flows.request[0] == &e.flows.response[0]
	if short && x.response != nil {
		return nil
	}
	return built
}

func (e *example) runRefused(t testing.TB, env *Env, definitions map[string]policies.Definition) {
	t.Helper()
	var problems strings.Builder
	for _, entry := range e.flows.request {
		if _, err := entry.build(env, definitions); err != nil {
			fmt.Fprintln(&problems, err)
		}
	}
	for _, want := range e.refused {
		if !strings.Contains(problems.String(), want) {
			t.Errorf("line %d: the parameters' errors are\n%s\nwithout %q", e.line, problems.String(), want)
		}
	}
}

func build(t testing.TB, env *Env, flow string, entries []entry, definitions map[string]policies.Definition) []any {
	t.Helper()
	var built []any
	for i, entry := range entries {
		policy, err := entry.build(env.At(fmt.Sprintf("%s.policy_chain[%d]", flow, i)), definitions)
		if err != nil {
			t.Fatalf("build policy %q: %v", entry.Policy, err)
		}
		built = append(built, policy)
	}
	return built
}

func (e entry) build(env *Env, definitions map[string]policies.Definition) (any, error) {
	d, ok := definitions[e.Policy]
	if !ok {
		return nil, fmt.Errorf("unknown policy %q; there are %s", e.Policy, names(definitions))
	}
	if e.Params == nil {
		return d.Build(env, nil)
	}
	params, err := json.Marshal(e.Params)
	if err != nil {
		return nil, err
	}
	return d.Build(env, params)
}
