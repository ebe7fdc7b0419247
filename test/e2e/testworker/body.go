package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

// body does with whole bodies what its parameters say.
type body struct{ bodyParams }

type bodyParams struct {
	// Name is that of the header x-body-NAME, which tells the body that the policy saw.
	Name string `json:"name"`
	// DenyIf refuses a body that contains it, FailIf makes the policy fail.
	DenyIf string `json:"deny_if,omitempty"`
	FailIf string `json:"fail_if,omitempty"`
	// Append is put behind the body, Replace in its place.
	Append  string  `json:"append,omitempty"`
	Replace *string `json:"replace,omitempty"`
	// SetMethod and SetStatus change what the header phases can.
	SetMethod string `json:"set_method,omitempty"`
	SetStatus int    `json:"set_status,omitempty"`
}

func newBody(_ policies.Env, p bodyParams) (*body, error) { return &body{p}, nil }

// message is what requests and responses have in common.
type message interface {
	HasBody() bool
	Body() []byte
	SetBody([]byte)
	SetHeader(name, value string)
}

func (b *body) OnRequestBody(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	if b.SetMethod != "" {
		r.SetMethod(b.SetMethod)
	}
	return b.onBody(r)
}

func (b *body) OnResponseBody(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	if b.SetStatus != 0 {
		r.SetStatus(b.SetStatus)
	}
	return b.onBody(r)
}

func (b *body) onBody(m message) (policies.Verdict, error) {
	seen := m.Body()
	m.SetHeader("x-body-"+b.Name, strings.ToValidUTF8(fmt.Sprintf("%d %.40q", len(seen), seen), "?"))
	switch {
	case b.Append != "" && m.HasBody():
		m.SetBody(append(bytes.Clone(seen), b.Append...))
	case b.Replace != nil && m.HasBody():
		m.SetBody([]byte(*b.Replace))
	}
	switch {
	case b.DenyIf != "" && bytes.Contains(seen, []byte(b.DenyIf)):
		return policies.Deny(403, "bad_body"), nil
	case b.FailIf != "" && bytes.Contains(seen, []byte(b.FailIf)):
		return policies.Continue(), errors.New("could not decide")
	}
	return policies.Continue(), nil
}
