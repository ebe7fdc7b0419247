package main

import (
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/policies"
)

// headerMutationFilter removes owned headers where the engine does not see them. It stands behind ext_proc.
const headerMutationFilter = "envoy.filters.http.header_mutation"

// ownedHeaders are the headers of requests that clients must not send, as far as policyctl knows them: folded and sorted.
type ownedHeaders struct {
	// names are owned by policies, credentials are read by policies.
	names, credentials []string
	// unknown are policies whose owned headers are not known: they do not come with the engine, or cannot be built.
	unknown []string
}

// ownedHeaders builds the policies of the kernel's configuration, without the workers', to find the headers that they own.
func (c catalogue) ownedHeaders(k *config.Kernel, more []string) (o ownedHeaders, err error) {
	world := newDryWorld(time.Now, nil, true)
	names, credentials, unknown := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, name := range more {
		if err := policies.CheckOwnedHeader(name); err != nil {
			return o, badUsage("--owned-header: %v", err)
		}
		names[policies.FoldHeader(name)] = true
	}
	for i := range k.Routes {
		r := &k.Routes[i]
		for _, p := range slices.Concat(r.Request.Chain, r.Response.Chain) {
			instance, err := c.dryBuild(world, r.Name, &p)
			if err != nil {
				unknown[p.Name] = true
				continue
			}
			if owner, ok := instance.(policies.Owner); ok {
				addFolded(names, owner.OwnedHeaders())
			}
			if reader, ok := instance.(policies.CredentialReader); ok {
				addFolded(credentials, reader.CredentialHeaders())
			}
		}
	}
	if err := world.close(); err != nil {
		return o, err
	}
	return ownedHeaders{slices.Sorted(maps.Keys(names)), slices.Sorted(maps.Keys(credentials)), slices.Sorted(maps.Keys(unknown))}, nil
}

func (c catalogue) dryBuild(world *dryWorld, route string, p *config.Policy) (any, error) {
	d, known := c[p.Name]
	if !known {
		return nil, errDry
	}
	instance, err := build(d, dryEnv{route: route, instance: p.Pos.Path, world: world}, p.Params)
	if closer, ok := instance.(io.Closer); ok && err == nil {
		world.closers = append(world.closers, closer)
	}
	return instance, err
}

func addFolded(to map[string]bool, names []string) {
	for _, name := range names {
		to[policies.FoldHeader(name)] = true
	}
}

// trailers are the names that are removed from trailers of requests.
func (o *ownedHeaders) trailers() []string {
	all := slices.Concat(o.names, o.credentials)
	slices.Sort(all)
	return slices.Compact(all)
}

// spellingsOf is a regular expression of all spellings of a folded name. Envoy has names in lower case.
func spellingsOf(name string) string {
	return strings.ReplaceAll(name, "-", "[^a-z0-9]")
}

// removals remove all spellings of the names.
func removals(names []string) (all []*mutationv3.HeaderMutation) {
	for _, name := range names {
		all = append(all, &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{
			RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{KeyMatcher: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: spellingsOf(name)}},
			}},
		}})
	}
	return all
}

// trailerFilter removes owned headers and credentials from the trailers of requests. Envoy does not send trailers to the engine where
// no policy wants a body, and to ask for them with each request would cost a round trip.
func (o *ownedHeaders) trailerFilter() *headermutationv3.HeaderMutation {
	return &headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{RequestTrailersMutations: removals(o.trailers())}}
}

// bypass removes owned headers from the requests of a route that the engine does not see.
func (o *ownedHeaders) bypass() *headermutationv3.HeaderMutationPerRoute {
	return &headermutationv3.HeaderMutationPerRoute{Mutations: &headermutationv3.Mutations{RequestMutations: removals(o.names)}}
}

const (
	typeHeaderMutation         = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
	typeHeaderMutationPerRoute = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute"
)

// remover is what the mutations of a level remove, as predicates of a name.
type remover []func(name string) bool

// leaves returns those of the folded names of which a spelling is not removed.
func (r remover) leaves(names []string) (left []string) {
	for _, name := range names {
		for _, spelling := range []string{name, strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", "."), strings.ReplaceAll(name, "-", "+")} {
			if !slices.ContainsFunc(r, func(removes func(string) bool) bool { return removes(spelling) }) {
				left = append(left, name)
				break
			}
		}
	}
	return left
}

// mutations adds what a list of mutations removes.
func (r remover) mutations(list place) remover {
	for mutation := range list.items() {
		if name := mutation.get("remove").text(); name != "" {
			r = append(r, func(n string) bool { return strings.EqualFold(n, name) })
		}
		matcher := mutation.get("remove_on_match", "key_matcher")
		if exact := matcher.get("exact").text(); exact != "" {
			r = append(r, func(n string) bool { return n == exact })
		}
		if prefix := matcher.get("prefix").text(); prefix != "" {
			r = append(r, func(n string) bool { return strings.HasPrefix(n, prefix) })
		}
		if e, err := regexp.Compile("^(?:" + matcher.get("safe_regex", "regex").text() + ")$"); err == nil && matcher.get("safe_regex").there() {
			r = append(r, e.MatchString)
		}
	}
	return r
}

// level adds what a route, a virtual host or a route configuration removes.
func (r remover) level(at place) remover {
	for name := range at.get("request_headers_to_remove").items() {
		removed := name.text()
		// Envoy removes this spelling only. Who writes it takes the other ones into account.
		r = append(r, func(n string) bool { return policies.SameHeader(n, removed) })
	}
	for _, cfg := range at.get("typed_per_filter_config").values() {
		if cfg.isType(typeFilterConfig) {
			cfg = cfg.get("config")
		}
		if cfg.isType(typeHeaderMutationPerRoute) {
			r = r.mutations(cfg.get("mutations", "request_mutations"))
		}
	}
	return r
}

// trailers notes what a connection manager leaves in the trailers of requests.
func (c *envoyCheck) trailers(manager place) {
	var r remover
	for filter := range manager.get("http_filters").items() {
		if cfg := filter.get("typed_config"); cfg.isType(typeHeaderMutation) && !filter.get("disabled").isTrue() {
			r = r.mutations(cfg.get("mutations", "request_trailers_mutations"))
		}
	}
	if left := r.leaves(c.owned.trailers()); len(left) > 0 {
		c.note(manager, "clients can send %s in trailers, which an HTTP/2 upstream may read as headers; `policyctl envoy` prints a filter that removes them", strings.Join(left, ", "))
	}
}

// bypassed fails for a route that the engine does not see, unless Envoy removes the owned headers from its requests.
func (c *envoyCheck) bypassed(o override, route place) {
	name := route.get("name").text()
	if left := o.removes.level(route).leaves(c.owned.names); len(left) > 0 {
		c.fail(o.off.pos, "requests of route %q pass by the engine here, and clients can send %s; leave it out and give the route a name, or remove the headers as `policyctl envoy --bypass` does",
			name, strings.Join(left, ", "))
		return
	}
	c.note(o.off, "requests of route %q pass by the engine here, without policies", name)
}
