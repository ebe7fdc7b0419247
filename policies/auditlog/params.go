package auditlog

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

// Params are the policy's parameters.
type Params struct {
	File            string   `json:"file,omitempty" jsonschema:"description=File that lines are appended to. Default: the worker's log at the level info."`
	Required        bool     `json:"required,omitempty" jsonschema:"description=While lines can't be written the policy fails; needs file. Default: lines that are lost are counted and requests go on."`
	Query           bool     `json:"query,omitempty" jsonschema:"description=Write the query of the path too."`
	RequestHeaders  []string `json:"request_headers,omitempty" jsonschema:"description=Request headers to write."`
	ResponseHeaders []string `json:"response_headers,omitempty" jsonschema:"description=Response headers to write."`
	Claims          []string `json:"claims,omitempty" jsonschema:"description=Claims of the identity to write: names or JSON Pointers."`
	Metadata        []string `json:"metadata,omitempty" jsonschema:"description=Keys of metadata to write."`
	Redact          []string `json:"redact,omitempty" jsonschema:"description=Further names of headers and query parameters and claims and metadata whose values are not written."`
}

// maxNames is how many names a list may have.
const maxNames = 64

func (p *Params) check() error {
	var problems []error
	bad := func(param, format string, args ...any) {
		problems = append(problems, policies.BadParam(param, format, args...))
	}
	if p.File != "" && (!filepath.IsAbs(p.File) || filepath.Clean(p.File) != p.File || strings.ContainsRune(p.File, 0)) {
		bad("file", "%q is not legal; legal is an absolute path without . and ..", p.File)
	}
	if p.Required && p.File == "" {
		bad("required", "there is no file; whether the worker's log was written is not known")
	}
	for _, list := range []struct {
		param   string
		names   []string
		headers bool
	}{
		{"request_headers", p.RequestHeaders, true},
		{"response_headers", p.ResponseHeaders, true},
		{"claims", p.Claims, false},
		{"metadata", p.Metadata, false},
		{"redact", p.Redact, false},
	} {
		if len(list.names) > maxNames {
			bad(list.param, "it has %d names; legal are %d", len(list.names), maxNames)
		}
		for i, name := range list.names {
			// With something in front: Envoy lets nobody set some headers, but they can be read.
			err := policies.CheckHeader("a-"+name, "")
			switch {
			case name == "":
				bad(list.param, "a name is empty")
			case list.headers && err != nil:
				bad(list.param, "%q is not a header", name)
			case slices.ContainsFunc(list.names[:i], func(other string) bool { return strings.EqualFold(other, name) && (list.headers || other == name) }):
				bad(list.param, "%q is there twice", name)
			}
		}
	}
	return errors.Join(problems...)
}
