package redact

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

// Params are the policy's parameters.
type Params struct {
	Literals     []string `json:"literals,omitempty" jsonschema:"description=Texts to be replaced; case matters."`
	Patterns     []string `json:"patterns,omitempty" jsonschema:"description=RE2 patterns of what is to be replaced. Their matches must have a greatest length."`
	Replacement  string   `json:"replacement,omitempty" jsonschema:"default=[redacted],description=What goes on in place of a match. It is text; nothing in it has a meaning."`
	Border       string   `json:"border,omitempty" jsonschema:"enum=none,enum=digit,enum=word,default=none,description=What may not stand next to a match: a digit (0-9) or a character of a word (0-9 A-Z a-z _)."`
	JSONStrings  bool     `json:"json_strings,omitempty" jsonschema:"description=Of bodies that are JSON by their content-type only look into strings; numbers and syntax stay."`
	MaxSteps     int64    `json:"max_steps,omitempty" jsonschema:"minimum=100000,maximum=1000000000,default=8000000,description=How many steps the patterns may take on 64 KiB of a body. A match that may have begun costs one at each character."`
	ContentTypes []string `json:"content_types,omitempty" jsonschema:"description=The media types of the bodies that are looked at; one * stands for any text. Bodies without a readable type are looked at too. Default: all."`
}

// Defaults sets what the configuration leaves out.
func (p *Params) Defaults() {
	*p = Params{Replacement: "[redacted]", MaxSteps: defaultSteps, Border: "none"}
}

// defaultSteps is the default of max_steps: 122 matches that may have begun, at each byte of 64 KiB. That takes some 20 ms.
const (
	defaultSteps = 8_000_000
	minSteps     = 100_000
)

var borders = map[string]border{"none": borderNone, "digit": borderDigit, "word": borderWord}

// maxReplacement bounds by how much a body grows.
const maxReplacement = 256

// check returns the parameters as the policy uses them, or all that is wrong with them.
func (p *Params) check() (*program, []mediaType, error) {
	var problems []error
	bad := func(param, format string, args ...any) {
		problems = append(problems, policies.BadParam(param, format, args...))
	}
	if len(p.Literals)+len(p.Patterns) == 0 {
		bad("literals", "nothing is to be replaced; one of literals and patterns is needed")
	}
	var expressions []*syntax.Regexp
	for i, text := range p.Literals {
		param := fmt.Sprintf("literals[%d]", i)
		switch {
		case text == "":
			bad(param, "it is empty; legal is any text of 1 to %d bytes", maxMatch)
		case len(text) > maxMatch:
			bad(param, "it has %d bytes; legal are 1 to %d", len(text), maxMatch)
		default:
			expressions = append(expressions, &syntax.Regexp{Op: syntax.OpLiteral, Rune: []rune(text)})
		}
	}
	for i, text := range p.Patterns {
		re, err := parsePattern(text)
		if err != nil {
			bad(fmt.Sprintf("patterns[%d]", i), "%q: %v", text, err)
			continue
		}
		expressions = append(expressions, re)
	}
	if len(p.Replacement) > maxReplacement {
		bad("replacement", "it has %d bytes; legal are up to %d", len(p.Replacement), maxReplacement)
	}
	around, ok := borders[p.Border]
	if !ok {
		bad("border", "unknown value %q, expected none, digit or word", p.Border)
	}
	if p.MaxSteps < minSteps || p.MaxSteps > policies.MaxPatternSteps {
		bad("max_steps", "must be between %d and %d, got %d", minSteps, policies.MaxPatternSteps, p.MaxSteps)
	}
	var types []mediaType
	for i, text := range p.ContentTypes {
		t, ok := parseMediaType(text)
		if !ok {
			bad(fmt.Sprintf("content_types[%d]", i), "%q is not legal; legal are such as application/json, text/* and application/*+json", text)
		}
		if ok && !t.star && framed([]byte(t.before)) {
			bad(fmt.Sprintf("content_types[%d]", i), "%q has lengths in it, so its bodies can't be redacted; remove it, and keep the policy off such routes", text)
		}
		types = append(types, t)
	}
	if len(problems) > 0 {
		return nil, nil, errors.Join(problems...)
	}
	compiled, err := compile(expressions, p.MaxSteps, around, p.JSONStrings)
	if err != nil {
		return nil, nil, policies.BadParam("patterns", "%v", err)
	}
	return compiled, types, nil
}

// parsePattern parses a pattern, and refuses what can't be found across the borders of chunks.
func parsePattern(text string) (*syntax.Regexp, error) {
	re, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, err
	}
	switch least, most, err := bound(re); {
	case err != nil:
		return nil, err
	case least == 0:
		return nil, errors.New("it matches the empty text, which is everywhere")
	case most > maxMatch:
		return nil, fmt.Errorf("its matches may have more than %d bytes; legal are up to that, and a character has up to 4", maxMatch)
	}
	return re, nil
}

// mediaType is a type such as text/html, or what stands before and after the star of one such as text/*.
type mediaType struct {
	before, after string
	star          bool
}

func parseMediaType(text string) (mediaType, bool) {
	major, minor, ok := strings.Cut(strings.ToLower(text), "/")
	if !ok || major == "" || minor == "" || strings.Count(text, "*") > 1 || strings.ContainsAny(major+minor, "/; \t,\"") {
		return mediaType{}, false
	}
	before, after, star := strings.Cut(major+"/"+minor, "*")
	return mediaType{before, after, star}, true
}

// is reports whether the media type, in lower case and without parameters, is one of t.
func (t mediaType) is(text string) bool {
	if !t.star {
		return text == t.before
	}
	return len(text) >= len(t.before)+len(t.after) && strings.HasPrefix(text, t.before) && strings.HasSuffix(text, t.after)
}
