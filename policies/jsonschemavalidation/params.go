package jsonschemavalidation

import (
	"encoding/json"
	"errors"
	"mime"
	"regexp"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

// Params are the policy's parameters.
type Params struct {
	Schema          json.RawMessage `json:"schema" jsonschema:"required,description=The JSON Schema; draft 2020-12 unless its $schema names another."`
	ContentTypes    mediaTypes      `json:"content_types,omitempty" jsonschema:"default=application/json,default=application/*+json,description=The media types that a body may have."`
	Methods         methods         `json:"methods,omitempty" jsonschema:"description=The request methods that the policy applies to, such as POST and PUT. Default: all."`
	Required        bool            `json:"required,omitempty" jsonschema:"default=true,description=Refuse messages without a body."`
	Status          int             `json:"status,omitempty" jsonschema:"enum=400,enum=422,default=400,description=The status for JSON that does not fit the schema."`
	AssertFormats   bool            `json:"assert_formats,omitempty" jsonschema:"default=true,description=Enforce format; false: it is a remark."`
	MaxBodyBytes    int64           `json:"max_body_bytes,omitempty" jsonschema:"minimum=1,description=The longest body. Default: what kernel and worker allow."`
	MaxDepth        int             `json:"max_depth,omitempty" jsonschema:"minimum=1,maximum=512,default=32,description=How deep objects and arrays may be nested."`
	MaxValues       int             `json:"max_values,omitempty" jsonschema:"minimum=1,maximum=1000000,default=10000,description=How many values a body may have, those in objects and arrays included."`
	MaxSteps        int             `json:"max_steps,omitempty" jsonschema:"minimum=1,maximum=100000000,default=200000,description=How many steps the schema may take on a body."`
	MaxPatternSteps int64           `json:"max_pattern_steps,omitempty" jsonschema:"minimum=1,maximum=1000000000,default=2000000,description=How many steps the patterns of the schema may take on a body."`
	MaxErrors       int             `json:"max_errors,omitempty" jsonschema:"minimum=0,maximum=50,default=5,description=How many errors the client is told of; 0: only that there are some."`
}

// Defaults sets what the configuration leaves out.
func (p *Params) Defaults() {
	*p = Params{
		ContentTypes: mediaTypes{"application/json", "application/*+json"}, Required: true, Status: 400, AssertFormats: true,
		MaxBodyBytes: unlimited, MaxDepth: 32, MaxValues: 10_000, MaxSteps: 200_000, MaxPatternSteps: policies.DefaultPatternSteps, MaxErrors: 5,
	}
}

// The largest values of the parameters.
const (
	unlimited = 1 << 30 // bytes; far beyond what a worker takes
	maxDepth  = 512
	maxValues = 1_000_000
	maxSteps  = 100_000_000
	maxErrors = 50
)

// check returns the schema, or all that is wrong with the parameters.
func (p *Params) check() (*checkers, error) {
	var problems []error
	bad := func(param, format string, args ...any) {
		problems = append(problems, policies.BadParam(param, format, args...))
	}
	within := func(param string, value, least, most int64) {
		if value < least || value > most {
			bad(param, "%d is not legal; legal are %d to %d", value, least, most)
		}
	}
	if p.Status != 400 && p.Status != 422 {
		bad("status", "%d is not legal; legal are 400 and 422", p.Status)
	}
	within("max_body_bytes", p.MaxBodyBytes, 1, unlimited)
	within("max_depth", int64(p.MaxDepth), 1, maxDepth)
	within("max_values", int64(p.MaxValues), 1, maxValues)
	within("max_steps", int64(p.MaxSteps), 1, maxSteps)
	within("max_pattern_steps", p.MaxPatternSteps, 1, policies.MaxPatternSteps)
	within("max_errors", int64(p.MaxErrors), 0, maxErrors)
	if len(p.ContentTypes) == 0 {
		bad("content_types", "it is empty; legal are media types such as application/json")
	}
	for _, t := range p.ContentTypes {
		if !mediaType.MatchString(t) {
			bad("content_types", "%q is not legal; legal are media types in lower case without parameters, such as application/json, and application/*+json for all that end with +json", t)
		}
	}
	if err := p.Methods.check(); err != nil {
		bad("methods", "%v", err)
	}
	var schema *checkers
	if len(p.Schema) == 0 {
		bad("schema", "it is missing; legal is a JSON Schema")
	} else {
		var err error
		if schema, err = newCheckers(p.Schema, p.AssertFormats); err != nil {
			bad("schema", "%v", err)
		}
	}
	return schema, errors.Join(problems...)
}

// mediaType is a type with a subtype, or with all subtypes of a suffix (RFC 6838 section 4.2).
var mediaType = regexp.MustCompile(`^[a-z0-9][a-z0-9!#$&^_.-]*/(\*\+)?[a-z0-9][a-z0-9!#$&^_.+-]*$`)

// mediaTypes are the types that a body may have.
type mediaTypes []string

// allow reports whether a content-type is one of those, in UTF-8 (RFC 8259 section 8.1) if it names a charset.
func (m mediaTypes) allow(contentType []byte) bool {
	// Fast path: as most clients write it.
	for _, t := range m {
		if t == string(contentType) {
			return true
		}
	}
	got, params, err := mime.ParseMediaType(string(contentType))
	if err != nil || !utf8Only(string(contentType), params) {
		return false
	}
	for _, t := range m {
		kind, suffix, wild := strings.Cut(t, "*")
		if got == t || wild && len(got) > len(kind)+len(suffix) && strings.HasPrefix(got, kind) && strings.HasSuffix(got, suffix) {
			return true
		}
	}
	return false
}

// utf8Only reports whether no parameter of a content-type names another charset. What package mime leaves out, or puts
// together, may be one to others: charset*=utf-16”utf-16 and charset*0=utf-16 (RFC 2231).
func utf8Only(contentType string, params map[string]string) bool {
	switch strings.ToLower(params["charset"]) {
	case "":
		if _, named := params["charset"]; named {
			return false
		}
	case "utf-8", "utf8": // Labels of the WHATWG; the registry of IANA has the first.
	default:
		return false
	}
	_, rest, _ := strings.Cut(strings.ToLower(contentType), ";")
	return !extended.MatchString(rest)
}

// extended is a parameter of RFC 2231 and RFC 8187 that names a charset.
var extended = regexp.MustCompile(`(^|[;\s])charset\s*\*`)
