package main

import (
	"context"
	"fmt"

	"github.com/policy-engine/policy-engine/policies"
)

// trail is the header and the metadata to which each witness appends its name.
const trail = "x-trail"

// witness writes what it sees into a header, x-seen-NAME, and then changes what its parameters say.
type witness struct{ witnessParams }

type witnessParams struct {
	Name string `json:"name"`
	// Changes of the request.
	SetPath     string `json:"set_path,omitempty"`
	SetMethod   string `json:"set_method,omitempty"`
	SetIdentity string `json:"set_identity,omitempty"`
	// Of the response.
	SetStatus int `json:"set_status,omitempty"`
	// Of both.
	SetHeader    map[string]string `json:"set_header,omitempty"`
	RemoveHeader []string          `json:"remove_header,omitempty"`
}

func newWitness(_ policies.Env, p witnessParams) (*witness, error) {
	if p.Name == "" {
		return nil, policies.BadParam("name", "is required")
	}
	return &witness{p}, nil
}

func (w *witness) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	seen := fmt.Sprintf("%s %s %s", r.Method(), r.Path(), describe(r))
	r.SetHeader("x-seen-"+w.Name, seen)
	w.leaveTrail(r.Metadata, r.SetMetadata)
	r.AppendHeader(trail, w.Name)
	for name, value := range w.SetHeader {
		r.SetHeader(name, value)
	}
	for _, name := range w.RemoveHeader {
		r.RemoveHeader(name)
	}
	if w.SetPath != "" {
		r.SetPath(w.SetPath)
	}
	if w.SetMethod != "" {
		r.SetMethod(w.SetMethod)
	}
	if w.SetIdentity != "" {
		r.SetIdentity(policies.Identity{Subject: w.SetIdentity, Method: "witness", Scopes: []string{"seen." + w.Name}, Claims: []policies.Entry{{Key: "by", Value: w.Name}}})
	}
	return policies.Continue(), nil
}

func (w *witness) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	var answered []byte
	for name, value := range r.Headers() {
		if string(name) == trail {
			answered = append(append(answered, value...), '+')
		}
	}
	seen := fmt.Sprintf("%d %s | %s %s %s", r.Status(), answered, r.Request().Method(), r.Request().Path(), describe(r.Request()))
	r.SetHeader("x-seen-"+w.Name, seen)
	w.leaveTrail(r.Metadata, r.SetMetadata)
	r.AppendHeader(trail, w.Name)
	for name, value := range w.SetHeader {
		r.SetHeader(name, value)
	}
	for _, name := range w.RemoveHeader {
		r.RemoveHeader(name)
	}
	if w.SetStatus != 0 {
		r.SetStatus(w.SetStatus)
	}
	return policies.Continue(), nil
}

func (w *witness) leaveTrail(get func(string) (string, bool), set func(string, string)) {
	before, _ := get(trail)
	set(trail, before+w.Name+">")
}

// describe tells the trail, the metadata and the identity that a policy sees.
func describe(r *policies.Request) string {
	var values []byte
	for name, value := range r.Headers() {
		if string(name) == trail {
			values = append(append(values, value...), '+')
		}
	}
	metadata, _ := r.Metadata(trail)
	who := "nobody"
	if id := r.Identity(); id != nil {
		by, _ := id.Claim("by")
		who = fmt.Sprintf("%s/%s/%v/%s", id.Subject, id.Method, id.Scopes, by)
	}
	return fmt.Sprintf("header=%s metadata=%s identity=%s", values, metadata, who)
}
