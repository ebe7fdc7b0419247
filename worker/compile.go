package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"unicode/utf8"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/worker/chain"
)

// maxConfigErrors bounds an answer to a push: nobody reads more.
const maxConfigErrors = 1000

// compiler makes a generation of a push.
type compiler struct {
	registry   *Registry
	env        *environment
	generation *generation
	observers  *observers
	places     map[place]int
	errs       []*workerv1.ConfigError
}

// place is a policy in a flow of a route; the same policy may stand there several times.
type place struct {
	route    string
	response bool
	policy   string
}

// compile makes the generation, or returns all that is wrong with the push. An error is one of the call, such as the end of ctx.
func compile(ctx context.Context, c *compiler, req *workerv1.PushConfigRequest) (*generation, []*workerv1.ConfigError, error) {
	for _, ch := range req.Chains {
		if err := ctx.Err(); err != nil {
			c.generation.release()
			return nil, nil, err
		}
		c.chain(ch)
	}
	if len(c.errs) > 0 {
		c.generation.release()
		return nil, c.errs, nil
	}
	return c.generation, nil, nil
}

func (c *compiler) chain(ch *workerv1.Chain) {
	if !utf8.ValidString(ch.GetRouteName()) {
		c.fail(ch, "", "the route's name is not valid UTF-8")
		return
	}
	if _, ok := c.generation.chains[ch.GetId()]; ok {
		c.fail(ch, "", fmt.Sprintf("chain %d of route %q: there are two of that id", ch.GetId(), ch.GetRouteName()))
		return
	}
	list := make([]chain.Policy, 0, len(ch.GetPolicies()))
	for i, p := range ch.GetPolicies() {
		if policy, ok := c.policy(ch, p, i); ok {
			list = append(list, policy)
		}
	}
	compiled, err := chain.Compile(ch.GetRouteName(), ch.GetResponseFlow(), list)
	if err != nil {
		c.fail(ch, "", err.Error())
		return
	}
	compiled.TrustedHops = ch.GetTrustedHops()
	c.generation.chains[ch.GetId()] = compiled
}

// policy makes an instance, of the policy at index of the chain.
func (c *compiler) policy(ch *workerv1.Chain, p *workerv1.PolicyInstance, index int) (chain.Policy, bool) {
	name := p.GetName()
	definition, ok := c.registry.definitions[name]
	if !ok {
		c.fail(ch, p.GetPath(), c.registry.unknown(name))
		return chain.Policy{}, false
	}
	at := place{ch.GetRouteName(), ch.GetResponseFlow(), name}
	ordinal := c.places[at]
	c.places[at]++
	flow := "request"
	if at.response {
		flow = "response"
	}
	e := &env{
		environment: c.env, generation: c.generation, policy: name, shares: definition.Shares(), route: at.route,
		// Not the index in the chain: what a policy keeps has to survive a change of its neighbours. The route's name may have any character, so it is first.
		instance: fmt.Sprintf("%s/%s/%s/%d", at.route, flow, name, ordinal),
	}
	instance, reported, problems := build(definition, e, p.GetParams())
	for _, problem := range problems {
		c.fail(ch, p.GetPath()+problem.at, problem.text)
	}
	if len(problems) > 0 {
		return chain.Policy{}, false
	}
	for _, w := range reported.warnings {
		c.warn(name, p.GetPath()+w.at, w)
	}
	if p.GetReportOwnedHeaders() && len(reported.owned)+len(reported.credentials)+len(reported.replaced) > 0 {
		c.generation.owned = append(c.generation.owned, &workerv1.OwnedHeaders{
			Chain: ch.GetId(), Policy: uint32(index), Names: reported.owned, Credentials: reported.credentials, Replaced: reported.replaced,
		})
	}
	if instance, ok := instance.(io.Closer); ok {
		c.generation.closers = append(c.generation.closers, closer{name, instance})
	}
	return chain.Policy{
		Name: name, Instance: instance, OnFailure: p.GetOnFailure(), Timeout: chain.Microseconds(p.GetTimeoutUs()),
		Observer: c.observers.of(name, at.route), Owned: slices.Concat(reported.owned, reported.replaced),
	}, true
}

// warn logs what is valid and probably not meant, a text once for all the places that have it.
func (c *compiler) warn(policy, path string, w problem) {
	if suppressed, ok := c.observers.throttle.Allow(policy + "\x00" + w.at + "\x00" + w.text); ok {
		c.observers.log.Warn("the configuration is probably not what was meant", "policy", policy, "path", path, "warning", w.text, "suppressed", suppressed)
	}
}

func (c *compiler) fail(ch *workerv1.Chain, path, message string) {
	if len(c.errs) > maxConfigErrors {
		return
	}
	if len(c.errs) == maxConfigErrors {
		path, message = "", "there are more mistakes than these"
	}
	c.errs = append(c.errs, &workerv1.ConfigError{
		Chain: ch.GetId(),
		Path:  strings.ToValidUTF8(path, "\uFFFD"), Message: strings.ToValidUTF8(message, "\uFFFD"),
	})
}

// problem is a mistake in a policy's configuration.
type problem struct {
	at   string // to be appended to the policy's path
	text string
}

// report is what an instance says of the headers of requests.
type report struct {
	owned, credentials, replaced []string
	warnings                     []problem
}

// build makes an instance and asks for its owned headers, or returns all that is wrong with its parameters. All code of the policy is
// called under a guard.
func build(d policies.Definition, e policies.Env, params []byte) (instance any, reported report, problems []problem) {
	defer func() {
		if p := recover(); p != nil {
			e.Logger().Error("build of a policy panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			instance, reported, problems = nil, report{}, []problem{{"", fmt.Sprintf("the policy can't be built: it panicked: %v", p)}}
		}
	}()
	instance, err := d.Build(e, params)
	if err != nil {
		return nil, report{}, problemsOf(err)
	}
	if owner, ok := instance.(policies.Owner); ok {
		for _, name := range owner.OwnedHeaders() {
			if err := policies.CheckOwnedHeader(name); err != nil || name != strings.ToLower(name) {
				return nil, report{}, []problem{{"", fmt.Sprintf("the policy owns the header %q, expected a header that policies may own, in lower case", name)}}
			}
			reported.owned = append(reported.owned, name)
		}
	}
	if replacer, ok := instance.(policies.Replacer); ok {
		for _, name := range replacer.ReplacedHeaders() {
			if err := policies.CheckHeader(name, ""); err != nil || name != strings.ToLower(name) {
				return nil, report{}, []problem{{"", fmt.Sprintf("the policy replaces the header %q, expected a header that policies may set, in lower case", name)}}
			}
			reported.replaced = append(reported.replaced, name)
		}
	}
	if reader, ok := instance.(policies.CredentialReader); ok {
		reported.credentials = slices.Clone(reader.CredentialHeaders())
	}
	if warner, ok := instance.(policies.Warner); ok {
		reported.warnings = problemsOf(errors.Join(warner.Warnings()...))
	}
	return instance, reported, nil
}

// problemsOf takes errors apart that errors.Join put together.
func problemsOf(err error) []problem {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var out []problem
		for _, e := range joined.Unwrap() {
			out = append(out, problemsOf(e)...)
		}
		if len(out) > 0 {
			return out
		}
	}
	var bad *policies.ParamError
	switch {
	case !errors.As(err, &bad):
		return []problem{{"", err.Error()}}
	case err == error(bad):
		return []problem{{".params." + bad.Param, bad.Problem}}
	default: // The error around it says more.
		return []problem{{".params." + bad.Param, err.Error()}}
	}
}
