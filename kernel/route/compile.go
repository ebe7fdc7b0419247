package route

import (
	"fmt"
	"slices"
	"strings"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
)

// Offer is what a worker name offers.
type Offer struct {
	Worker Evaluator
	// Timeout is the longest that one call may take.
	Timeout time.Duration
	// Discovered is false until the worker has told its policies for the first time.
	Discovered bool
	Policies   []*workerv1.PolicyDescriptor
}

// Error is a mistake of the configuration.
type Error struct {
	Pos     config.Pos
	Problem string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d: %s: %s", e.Pos.File, e.Pos.Line, e.Pos.Path, e.Problem)
}

// Errors are all mistakes of a configuration, in its order. errors.As finds the first *Error.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the mistakes one by one.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i := range e {
		errs[i] = e[i]
	}
	return errs
}

// Compile makes a table and, for each worker name, the chains to push before the table is swapped in. The error, if there is one, is Errors: a policy
// in a flow in whose phases it takes no part, one that needs a phase that the kernel can't run, a route name given twice.
//
// A policy that nobody offers is no error: the route says so (Unsupported, Undiscovered). What such a route has of other policies is pushed all the same, because
// that checks their parameters, but its plans are empty: no part of a route is enforced without the rest.
func Compile(generation uint64, cfg *config.Kernel, offers []Offer) (*Table, map[string][]*workerv1.Chain, error) {
	return CompileAfter(nil, generation, cfg, offers)
}

// CompileAfter is Compile for a table that takes the place of the previous one, whose owners of policies stay. Two worker
// names that offer the same policy are one of Table.Conflicts.
func CompileAfter(previous *Table, generation uint64, cfg *config.Kernel, offers []Offer) (*Table, map[string][]*workerv1.Chain, error) {
	c := compiler{chains: make(map[string][]*workerv1.Chain), trustedHops: uint32(cfg.ClientAddress.TrustedHops)}
	c.collectOwners(cfg, offers, previous)
	routes := make([]Route, 0, len(cfg.Routes))
	names := make(map[string]config.Pos, len(cfg.Routes))
	for i := range cfg.Routes {
		in := &cfg.Routes[i]
		if first, twice := names[in.Name]; twice {
			c.fail(in.Pos, "route %q is configured already at line %d; legal is a route once", in.Name, first.Line)
			continue
		}
		names[in.Name] = in.Pos
		routes = append(routes, c.route(in))
	}
	if len(c.errs) > 0 {
		return nil, nil, c.errs
	}
	t := newTable(generation, routes)
	t.owners, t.conflicts = c.ownerNames(previous), c.conflicts
	t.running = make(map[string]bool, len(c.owners))
	for policy := range c.owners {
		t.running[policy] = true
	}
	t.budget, t.terms, t.owned = cfg.MessageBudget(), TermsOf(cfg), c.newOwnership(cfg, routes)
	return t, c.chains, nil
}

type compiler struct {
	trustedHops uint32
	owners      map[string]owner
	// undiscovered: a configured worker has not told its policies.
	undiscovered bool
	conflicts    []Conflict
	away         map[string]bool // configured workers that have not said what they offer
	chains       map[string][]*workerv1.Chain
	lastChain    uint32
	errs         Errors
}

func (c *compiler) fail(pos config.Pos, format string, args ...any) {
	c.errs = append(c.errs, &Error{Pos: pos, Problem: fmt.Sprintf(format, args...)})
}

func (c *compiler) route(in *config.Route) Route {
	r := Route{Name: in.Name}
	var missing []string
	r.Request = c.flow(in, &in.Request, false, &missing)
	r.Response = c.flow(in, &in.Response, true, &missing)
	if len(missing) == 0 {
		r.Bodies = len(r.Request.Body)+len(r.Request.Trailers)+len(r.Response.Body)+len(r.Response.Trailers) > 0
		return r
	}
	r.Request, r.Response = Plan{}, Plan{}
	if c.undiscovered {
		r.Undiscovered = true
	} else {
		r.Unsupported = missing
	}
	return r
}

// flow cuts a chain into segments: consecutive policies of one worker are one call. Policies that nobody offers are added to missing, once each.
func (c *compiler) flow(in *config.Route, flow *config.Flow, response bool, missing *[]string) Plan {
	var plan Plan
	var last *workerv1.Chain
	var lastOffer *Offer
	position, first := -1, 0
	known := true
	for i := range flow.Chain {
		p := &flow.Chain[i]
		owner, ok := c.owners[p.Name]
		if !ok {
			known = false
			if !slices.Contains(*missing, p.Name) {
				*missing = append(*missing, p.Name)
			}
			continue
		}
		c.checkPhases(p, owner.descriptor, response)
		if owner.offer != lastOffer {
			lastOffer = owner.offer
			last = c.newChain(owner.offer.Worker.Name(), in.Name, response)
			position++
			first = i
		}
		onFailure := onFailure(p.OnFailure)
		last.Policies = append(last.Policies, &workerv1.PolicyInstance{
			Name: p.Name, Params: p.Params, OnFailure: onFailure, TimeoutUs: microseconds(p.Timeout), Path: p.Pos.Path,
			ReportOwnedHeaders: true,
		})
		s := Segment{Worker: owner.offer.Worker, Chain: last.Id, Position: position, First: first, Timeout: owner.offer.Timeout}
		plan.add(s, PolicyRef{Name: p.Name, Index: len(last.Policies) - 1, OnFailure: onFailure}, owner.descriptor, response)
		c.checkMode(flow.Mode, p, owner.descriptor, response)
	}
	if known { // What a policy takes part in is not known before its worker has told.
		c.applyMode(flow, &plan, response, in)
	}
	return plan
}

func (c *compiler) newChain(worker, route string, response bool) *workerv1.Chain {
	c.lastChain++
	chain := &workerv1.Chain{Id: c.lastChain, RouteName: route, ResponseFlow: response, TrustedHops: c.trustedHops}
	c.chains[worker] = append(c.chains[worker], chain)
	return chain
}

// checkPhases refuses a policy that would not run where it stands, and one that would run only in part.
func (c *compiler) checkPhases(p *config.Policy, d *workerv1.PolicyDescriptor, response bool) {
	flow := "request_flow"
	if response {
		flow = "response_flow"
	}
	takesPart := false
	for _, phase := range d.Phases {
		if phase < workerv1.Phase_PHASE_REQUEST_HEADERS || phase > workerv1.Phase_PHASE_RESPONSE_TRAILERS {
			c.fail(p.Pos, "policy %q needs phase %d, which this kernel does not know", p.Name, phase)
			continue
		}
		takesPart = takesPart || (phase >= workerv1.Phase_PHASE_RESPONSE_HEADERS) == response
	}
	if !takesPart {
		c.fail(p.Pos, "policy %q takes no part in the %s; the phases that it has are %v", p.Name, flow, d.Phases)
	}
}

func onFailure(f config.OnFailure) workerv1.OnFailure {
	switch f {
	case config.OnFailureContinue:
		return workerv1.OnFailure_ON_FAILURE_CONTINUE
	case config.OnFailureSkipRemaining:
		return workerv1.OnFailure_ON_FAILURE_SKIP_REMAINING
	default:
		return workerv1.OnFailure_ON_FAILURE_DENY
	}
}

// microseconds rounds up: a timeout below a microsecond must not become 0, which means none.
func microseconds(d time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64((d + time.Microsecond - 1) / time.Microsecond)
}
