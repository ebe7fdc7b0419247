package rewritepath

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

// Params are the policy's parameters.
type Params struct {
	Prefix    string `json:"prefix,omitempty" jsonschema:"description=Paths below this one; what follows it stays."`
	Template  string `json:"template,omitempty" jsonschema:"description=Paths such as /users/{id}/{rest...}."`
	Regex     string `json:"regex,omitempty" jsonschema:"description=Regular expression (RE2) for the whole path."`
	To        string `json:"to" jsonschema:"required,description=The new path. {name} is what the template or regex found under that name; {1} the first group."`
	Reroute   bool   `json:"reroute,omitempty" jsonschema:"description=Whether Envoy chooses the route by the new path. Its policies do not run."`
	Unmatched string `json:"unmatched,omitempty" jsonschema:"enum=deny,enum=continue,default=deny,description=What becomes of other paths: 404 or on as they are."`
}

const (
	unmatchedDeny     = "deny"
	unmatchedContinue = "continue"
)

// maxPattern is the longest pattern and the longest new path of the parameters, in bytes.
const maxPattern = 2048

// Defaults sets what the configuration leaves out.
func (p *Params) Defaults() { *p = Params{Unmatched: unmatchedDeny} }

// problems collects what is wrong with parameters.
type problems []error

func (p *problems) bad(param, format string, args ...any) {
	*p = append(*p, policies.BadParam(param, format, args...))
}

// compile returns the rule, or all that is wrong with the parameters.
func (p *Params) compile() (rule, error) {
	var problems problems
	if p.Unmatched != unmatchedDeny && p.Unmatched != unmatchedContinue {
		problems.bad("unmatched", "%q is not legal; legal are deny and continue", p.Unmatched)
	}
	given, param := 0, ""
	for name, value := range map[string]string{"prefix": p.Prefix, "template": p.Template, "regex": p.Regex} {
		if value != "" {
			given, param = given+1, name
		}
		if len(value) > maxPattern {
			problems.bad(name, "it has %d bytes; legal are %d", len(value), maxPattern)
		}
	}
	if given != 1 {
		problems.bad("prefix", "%d of prefix, template and regex are given; legal is one", given)
	}
	if len(p.To) > maxPattern {
		problems.bad("to", "it has %d bytes; legal are %d", len(p.To), maxPattern)
	}
	if len(problems) > 0 {
		return rule{}, errors.Join(problems...)
	}
	u, parts := p.pattern(param, &problems)
	p.target(param, &u, parts, &problems)
	return u, errors.Join(problems...)
}

// pattern compiles what paths have to look like, and names the parts: parts[i] is the name of span i.
func (p *Params) pattern(param string, problems *problems) (u rule, parts []string) {
	switch param {
	case "prefix":
		if !plain(p.Prefix) {
			problems.bad("prefix", "%q is not legal; legal is a path such as /api, without escapes that need none, //, . and ..", p.Prefix)
		}
		if strings.HasSuffix(p.Prefix, "/") && p.Prefix != "/" {
			problems.bad("prefix", "%q ends with a slash; legal is %q", p.Prefix, strings.TrimRight(p.Prefix, "/"))
		}
		u.prefix = strings.TrimSuffix(p.Prefix, "/")
	case "template":
		segments, names, err := parseTemplate(p.Template)
		if err != nil {
			problems.bad("template", "%v", err)
		}
		u.segments, parts = segments, names
	case "regex":
		// By itself first: in parentheses, "a)|(b" would be legal.
		alone, err := regexp.Compile(p.Regex)
		if err != nil {
			problems.bad("regex", "%q is not legal: %v; legal is RE2 (https://github.com/google/re2/wiki/Syntax)", p.Regex, err)
			return u, nil
		}
		if n := alone.NumSubexp(); n >= maxSpans {
			problems.bad("regex", "it has %d groups; legal are %d", n, maxSpans-1)
		}
		parts = alone.SubexpNames()
		for i := range parts {
			if parts[i] != "" && slices.Contains(parts[:i], parts[i]) {
				problems.bad("regex", "two groups are called %q", parts[i])
			}
		}
		whole, err := regexp.Compile(`\A(?:` + p.Regex + `)\z`)
		if err != nil {
			problems.bad("regex", "%q is not legal: %v", p.Regex, err)
		}
		if u.counted, err = policies.CompilePattern(`\A(?:` + p.Regex + `)\z`); err != nil {
			problems.bad("regex", "%v", err)
		}
		u.regex = whole
	}
	return u, parts
}

var partName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// parseTemplate reads /text/{name}/{name...}. The first of names is empty: it stands for the whole.
func parseTemplate(template string) (segments []segment, names []string, err error) {
	names = []string{""}
	if !strings.HasPrefix(template, "/") {
		return nil, nil, fmt.Errorf("%q does not begin with a slash", template)
	}
	texts := strings.Split(template[1:], "/")
	example := make([]string, len(texts)) // a path that the template matches
	for i, text := range texts {
		example[i] = text
		inner, opened := strings.CutPrefix(text, "{")
		inner, closed := strings.CutSuffix(inner, "}")
		if !opened && !closed {
			if strings.ContainsAny(text, "{}") {
				return nil, nil, fmt.Errorf("%q is not legal in a template; legal is text, or {name} as a whole segment", text)
			}
			segments = append(segments, segment{text: text})
			continue
		}
		name, rest := strings.CutSuffix(inner, "...")
		switch {
		case !opened || !closed || !partName.MatchString(name):
			return nil, nil, fmt.Errorf("%q is not legal in a template; legal is {name} as a whole segment, of lower-case letters, digits and '_'", text)
		case slices.Contains(names, name):
			return nil, nil, fmt.Errorf("{%s} is there twice", name)
		case rest && i < len(texts)-1:
			return nil, nil, fmt.Errorf("{%s...} is not the last segment", name)
		case len(names) == maxSpans:
			return nil, nil, fmt.Errorf("there are more than %d names", maxSpans-1)
		}
		segments = append(segments, segment{part: len(names), rest: rest})
		names = append(names, name)
		example[i] = "x"
	}
	if !plain("/" + strings.Join(example, "/")) {
		return nil, nil, fmt.Errorf("%q matches no path; legal is text without //, . and .. as segments, and escapes that need none", template)
	}
	return segments, names, nil
}

// target compiles the new path.
func (p *Params) target(param string, u *rule, parts []string, problems *problems) {
	example := p.To
	if param == "prefix" {
		if strings.HasSuffix(p.To, "/") && p.To != "/" {
			problems.bad("to", "%q ends with a slash; legal is %q", p.To, strings.TrimRight(p.To, "/"))
		}
		if text := strings.TrimSuffix(p.To, "/"); text != "" {
			u.to = append(u.to, piece{text, -1})
		}
		u.to = append(u.to, piece{"", 0})
	} else {
		var err error
		if u.to, example, err = parseTarget(p.To, parts); err != nil {
			problems.bad("to", "%v", err)
			return
		}
	}
	if !plain(example) {
		problems.bad("to", "%q is not legal; legal is a path without query, escapes that need none, //, . and ..", p.To)
	}
}

// parseTarget reads text with {name} in it. The example is a path that may come out.
func parseTarget(to string, parts []string) (pieces []piece, example string, err error) {
	for rest := to; rest != ""; {
		text, behind, opened := strings.Cut(rest, "{")
		if text != "" {
			pieces = append(pieces, piece{text, -1})
			example += text
		}
		if !opened {
			break
		}
		name, after, closed := strings.Cut(behind, "}")
		part := partOf(name, parts)
		if !closed || part < 0 {
			return nil, "", fmt.Errorf("{%s} is not legal; legal are %s", name, legalParts(parts))
		}
		pieces = append(pieces, piece{"", part})
		example += "x"
		rest = after
	}
	return pieces, example, nil
}

// plain reports whether a text of the parameters is a safe path and no more than that.
func plain(path string) bool { return safe([]byte(path)) && !strings.ContainsAny(path, "{}?") }

// partOf finds the part called name, or of that number. -1: there is none.
func partOf(name string, parts []string) int {
	if name == "" {
		return -1
	}
	if i := slices.Index(parts, name); i > 0 {
		return i
	}
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n < len(parts) && strconv.Itoa(n) == name {
		return n
	}
	return -1
}

func legalParts(parts []string) string {
	var legal []string
	for i, name := range parts {
		switch {
		case i == 0:
		case name == "":
			legal = append(legal, fmt.Sprintf("{%d}", i))
		default:
			legal = append(legal, "{"+name+"}")
		}
	}
	if len(legal) == 0 {
		return "no names, as there are no groups"
	}
	return strings.Join(legal, ", ")
}
