package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/config"
)

// The messages that the check looks for.
const (
	typeConnectionManager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	typeExtProc           = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"
	typeFilterConfig      = "envoy.config.route.v3.FilterConfig"
)

// envoyCheck looks for what makes Envoy pass requests by the engine in silence. `envoy --mode validate` finds none of it.
type envoyCheck struct {
	*validation
	clusters map[string]place
	checked  map[string]bool // clusters of the engine
	dynamic  bool            // clusters come from elsewhere too
	notes    []string
	filters  int // ext_proc filters found
	owned    ownedHeaders
	named    map[string]bool // routes of the kernel that an Envoy route names
}

// checkEnvoy checks an Envoy bootstrap. The notes are what it could not see, or what may be meant so.
func (v *validation) checkEnvoy(file string) (notes []string, err error) {
	root, err := readTree(file)
	if found, ok := err.(mistakes); ok {
		v.found = append(v.found, found...)
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	c := &envoyCheck{validation: v, clusters: map[string]place{}, checked: map[string]bool{}, named: map[string]bool{}}
	if c.owned, err = newCatalogue().ownedHeaders(v.kernel, nil); err != nil {
		return nil, err
	}
	for cluster := range root.get("static_resources", "clusters").items() {
		c.clusters[cluster.get("name").text()] = cluster
	}
	c.dynamic = root.get("dynamic_resources").there()
	for listener := range root.get("static_resources", "listeners").items() {
		for chain := range listener.get("filter_chains").items() {
			c.filterChain(chain, listener)
		}
		c.filterChain(listener.get("default_filter_chain"), listener)
	}
	if c.dynamic {
		c.note(root, "what Envoy gets dynamically is not checked")
	}
	if c.filters == 0 {
		c.fail(root.pos, "no HTTP connection manager has an ext_proc filter: Envoy asks the engine on no route")
	}
	var missing []string
	for i := range v.kernel.Routes {
		if name := v.kernel.Routes[i].Name; !c.named[name] {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 && c.filters > 0 {
		c.note(root, "no Envoy route names these routes of the kernel: %s", strings.Join(missing, ", "))
	}
	return c.notes, nil
}

func (c *envoyCheck) note(at place, format string, args ...any) {
	c.notes = append(c.notes, config.Error{Pos: at.pos, Problem: fmt.Sprintf(format, args...)}.Error())
}

func (c *envoyCheck) filterChain(chain, listener place) {
	for filter := range chain.get("filters").items() {
		if manager := filter.get("typed_config"); manager.isType(typeConnectionManager) {
			c.connectionManager(manager, listener)
		}
	}
}

func (c *envoyCheck) connectionManager(manager, listener place) {
	found := false
	for filter := range manager.get("http_filters").items() {
		cfg := filter.get("typed_config")
		if !cfg.isType(typeExtProc) {
			continue
		}
		found = true
		c.filters++
		if filter.get("disabled").isTrue() {
			c.fail(filter.get("disabled").pos, "the filter is off; legal is false")
		}
		c.extProc(cfg)
		c.address(manager, listener, cfg)
		c.routeConfig(manager, extProcAt{filter.get("name").text(), cfg})
	}
	if !found {
		c.note(manager, "no ext_proc filter: its routes are without policies")
		return
	}
	c.spelling(manager)
	c.trailers(manager)
}

// extProc checks the settings of the filter.
func (c *envoyCheck) extProc(cfg place) {
	if service := cfg.get("grpc_service"); service.there() {
		c.service(service)
	} else {
		c.fail(cfg.pos, "grpc_service is missing; the engine is a gRPC service")
	}
	for key, why := range map[string]string{
		"failure_mode_allow":         "a failure of the engine lets requests pass",
		"observability_mode":         "the engine's answers are ignored",
		"disable_immediate_response": "the engine's refusals are ignored",
	} {
		if at := cfg.get(key); at.isTrue() {
			c.fail(at.pos, "%s; legal is false", why)
		}
	}
	if !cfg.get("mutation_rules", "disallow_is_error").isTrue() {
		c.fail(cfg.pos, "mutation_rules.disallow_is_error is not true: a change that Envoy forbids is dropped, and the request passes without it")
	}
	if mode := cfg.get("processing_mode", "request_header_mode"); mode.text() == "SKIP" {
		c.fail(mode.pos, "the engine never sees a request; legal is SEND")
	}
	c.bodies(cfg)
	received := false
	for namespace := range cfg.get("metadata_options", "receiving_namespaces", "untyped").items() {
		received = received || namespace.text() == metadataNamespace
	}
	if !received {
		c.fail(cfg.pos, "metadata_options.receiving_namespaces.untyped does not have %s: the access log can't tell what the engine decided", metadataNamespace)
	}
	c.timeout(cfg)
}

// bodies checks that Envoy does what the engine asks for with mode_override: bodies, trailers and the headers of responses, where policies want them. When it does not, requests pass
// without those policies, and nobody can tell while it happens (ext_proc.cc, onReceiveMessage).
func (c *envoyCheck) bodies(cfg place) {
	if !newCatalogue().mayTakeBodies(c.kernel) {
		return
	}
	const why = "requests pass without the policies that want bodies"
	mode := cfg.get("processing_mode") // In full duplex nothing is asked for; each route is checked for what it needs.
	duplex := way{name: "request", mode: mode}.duplex() || way{name: "response", mode: mode}.duplex()
	if at := cfg.get("allow_mode_override"); !at.isTrue() && !duplex {
		if !at.there() {
			at = cfg
		}
		c.fail(at.pos, "allow_mode_override is not true: %s", why)
	}
	if at := cfg.get("send_body_without_waiting_for_header_response"); at.isTrue() {
		c.fail(at.pos, "Envoy ignores what the engine asks for: %s; legal is false", why)
	}
	if at := cfg.get("allowed_override_modes"); at.there() {
		c.fail(at.pos, "Envoy ignores what the engine asks for beyond the modes of this list: %s; legal is to leave it out", why)
	}
}

func (c *envoyCheck) timeout(cfg place) {
	timeout, at := 200*time.Millisecond, cfg // Envoy's default
	if set := cfg.get("message_timeout"); set.there() {
		d, err := time.ParseDuration(set.text())
		if err != nil {
			c.fail(set.pos, "%q is not a duration; legal is a number of seconds such as 0.75s", set.text())
			return
		}
		timeout, at = d, set
	}
	if least := leastMessageTimeout(c.kernel, newCatalogue()); timeout < least {
		c.fail(at.pos, "message_timeout is %v: Envoy gives up before the workers' timeouts have passed; legal are %v and more", timeout, least)
	}
}

// service checks that the cluster exists, and its limits: without the cluster, Envoy passes every request unprocessed.
func (c *envoyCheck) service(service place) {
	name := service.get("envoy_grpc", "cluster_name")
	switch {
	case !name.there() && service.get("google_grpc").there():
		c.note(service, "google_grpc is not checked")
	case !name.there():
		c.fail(service.pos, "envoy_grpc.cluster_name is missing")
	case !c.clusters[name.text()].there() && c.dynamic:
		c.note(name, "the cluster %q is not a static one; while Envoy does not have it, requests pass unprocessed", name.text())
	case !c.clusters[name.text()].there():
		var names []string
		for cluster := range c.clusters {
			names = append(names, cluster)
		}
		slices.Sort(names)
		c.fail(name.pos, "there is no cluster %q, so Envoy passes every request unprocessed; legal are %s", name.text(), strings.Join(names, ", "))
	case !c.checked[name.text()]:
		c.checked[name.text()] = true
		c.engineCluster(c.clusters[name.text()])
	}
}
