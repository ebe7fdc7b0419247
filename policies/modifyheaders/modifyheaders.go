// Package modifyheaders is the policy modifyHeaders: it sets, adds, appends and removes headers.
package modifyheaders

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

const (
	name    = "modifyHeaders"
	version = "1.0.0"
)

// Params are the policy's parameters.
type Params struct {
	Remove []string          `json:"remove,omitempty" jsonschema:"description=Headers to take away. In a request in every spelling."`
	Set    map[string]string `json:"set,omitempty" jsonschema:"description=Headers to set to one value in place of all that they have."`
	Add    map[string]string `json:"add_if_absent,omitempty" jsonschema:"description=Headers to set where there are none."`
	Append map[string]string `json:"append,omitempty" jsonschema:"description=Headers that get one more value."`
}

// Definition returns the policy's entry for a worker's registry.
func Definition() policies.Definition { return policies.Define(name, version, build) }

// Policy is modifyHeaders at one place of the configuration.
type Policy struct {
	remove           []string
	set, add, append []policies.Header // by name: the same order at every start
}

func build(_ policies.Env, params Params) (*Policy, error) {
	p := &Policy{}
	var problems []error
	bad := func(param, format string, args ...any) {
		problems = append(problems, policies.BadParam(param, format, args...))
	}
	if len(params.Remove)+len(params.Set)+len(params.Add)+len(params.Append) == 0 {
		bad("set", "nothing is to be done; one of set, add_if_absent, append and remove is needed")
	}
	removed := map[string]bool{}
	for _, header := range params.Remove {
		header = strings.ToLower(header)
		if err := policies.CheckHeader(header, ""); err != nil {
			bad("remove", "%v", err)
		}
		if removed[header] {
			bad("remove", "%q is there twice", header)
		}
		removed[header] = true
		p.remove = append(p.remove, header)
	}
	lines := func(param string, values map[string]string) []policies.Header {
		var lines []policies.Header
		for header, value := range values {
			if err := policies.CheckHeader(header, value); err != nil {
				bad(param, "%v", err)
			}
			header = strings.ToLower(header)
			if removed[header] {
				bad(param, "%q stands in remove too", header)
			}
			lines = append(lines, policies.Header{Name: header, Value: value})
		}
		slices.SortFunc(lines, func(a, b policies.Header) int { return cmp.Compare(a.Name, b.Name) })
		for i := 1; i < len(lines); i++ {
			if lines[i].Name == lines[i-1].Name {
				bad(param, "%q is there twice, in two spellings", lines[i].Name)
			}
		}
		return lines
	}
	p.set, p.add, p.append = lines("set", params.Set), lines("add_if_absent", params.Add), lines("append", params.Append)
	for i := range p.add {
		if slices.ContainsFunc(p.set, func(h policies.Header) bool { return h.Name == p.add[i].Name }) {
			bad("add_if_absent", "%q stands in set too, so it is never absent", p.add[i].Name)
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return p, nil
}

// ReplacedHeaders implements policies.Replacer.
func (p *Policy) ReplacedHeaders() []string {
	names := slices.Clone(p.remove)
	for i := range p.set {
		names = append(names, p.set[i].Name)
	}
	return names
}

// OnRequestHeaders changes the request that the upstream gets.
func (p *Policy) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	for _, header := range p.remove {
		r.RemoveSpellings(header)
	}
	for i := range p.set {
		// Other spellings would reach an upstream that takes them for the same.
		if _, n := r.Header(p.set[i].Name); n != r.Spellings(p.set[i].Name) {
			r.RemoveSpellings(p.set[i].Name)
		}
		r.SetHeader(p.set[i].Name, p.set[i].Value)
	}
	for i := range p.add {
		if _, n := r.Header(p.add[i].Name); n > 0 {
			continue
		}
		if r.Spellings(p.add[i].Name) > 0 {
			r.RemoveSpellings(p.add[i].Name)
		}
		r.SetHeader(p.add[i].Name, p.add[i].Value)
	}
	for i := range p.append {
		r.AppendHeader(p.append[i].Name, p.append[i].Value)
	}
	return policies.Continue(), nil
}

// OnResponseHeaders changes the response that the client gets.
func (p *Policy) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	for _, header := range p.remove {
		r.RemoveHeader(header)
	}
	for i := range p.set {
		r.SetHeader(p.set[i].Name, p.set[i].Value)
	}
	for i := range p.add {
		if _, n := r.Header(p.add[i].Name); n == 0 {
			r.SetHeader(p.add[i].Name, p.add[i].Value)
		}
	}
	for i := range p.append {
		r.AppendHeader(p.append[i].Name, p.append[i].Value)
	}
	return policies.Continue(), nil
}

var (
	_ policies.RequestHeaders  = (*Policy)(nil)
	_ policies.ResponseHeaders = (*Policy)(nil)
)
