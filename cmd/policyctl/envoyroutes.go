package main

import (
	"slices"
	"strings"

	"github.com/policy-engine/policy-engine/config"
)

// extProcAt is an ext_proc filter in a connection manager: by its name, routes refer to it.
type extProcAt struct {
	name string
	cfg  place
}

// override is what the levels above a route, and the route, set for the filter. The most specific one counts.
type override struct {
	// service and metadata are the values of x-policy-route in grpc_service and in grpc_initial_metadata; the latter wins.
	service, metadata place
	responseMode      string
	mode              place   // processing_mode, as a whole
	off               place   // where the filter is disabled
	removes           remover // what Envoy removes from the requests of the levels above a route
}

func (c *envoyCheck) routeConfig(manager place, filter extProcAt) {
	routes := manager.get("route_config")
	if !routes.there() {
		c.note(manager, "routes that Envoy gets from elsewhere are not checked")
		return
	}
	base := override{mode: filter.cfg.get("processing_mode"), responseMode: filter.cfg.get("processing_mode", "response_header_mode").text()}
	base.service = policyRoute(filter.cfg.get("grpc_service", "initial_metadata"))
	base = c.override(base, routes, filter)
	base.removes = base.removes.level(routes)
	for host := range routes.get("virtual_hosts").items() {
		onHost := c.override(base, host, filter)
		onHost.removes = slices.Clip(base.removes).level(host)
		if host.get("matcher").there() {
			c.note(host, "routes of a matcher are not checked")
		}
		for route := range host.get("routes").items() {
			c.route(onHost, route, filter)
		}
	}
}

// policyRoute returns the value of x-policy-route in a list of headers.
func policyRoute(headers place) place {
	for h := range headers.items() {
		if strings.EqualFold(h.get("key").text(), routeMetadata) {
			return h.get("value")
		}
	}
	return place{}
}

// override returns o as the typed_per_filter_config at a level changes it.
func (c *envoyCheck) override(o override, level place, filter extProcAt) override {
	cfg := level.get("typed_per_filter_config").get(filter.name)
	if cfg.isType(typeFilterConfig) {
		if off := cfg.get("disabled"); off.isTrue() {
			o.off = off
		}
		cfg = cfg.get("config")
	}
	if off := cfg.get("disabled"); off.isTrue() {
		o.off = off
	}
	overrides := cfg.get("overrides")
	if allow := overrides.get("failure_mode_allow"); allow.isTrue() || allow.get("value").isTrue() {
		c.fail(allow.pos, "a failure of the engine lets requests pass; legal is false")
	}
	if service := overrides.get("grpc_service"); service.there() {
		c.service(service)
		o.service = policyRoute(service.get("initial_metadata"))
	}
	if mode := overrides.get("processing_mode"); mode.there() {
		if skip := mode.get("request_header_mode"); skip.text() == "SKIP" {
			c.fail(skip.pos, "the engine never sees a request; legal is SEND")
		}
		o.responseMode, o.mode = mode.get("response_header_mode").text(), mode
	}
	if value := policyRoute(overrides.get("grpc_initial_metadata")); value.there() {
		o.metadata = value
	}
	return o
}

func (c *envoyCheck) route(o override, route place, filter extProcAt) {
	o = c.override(o, route, filter)
	if o.off.there() {
		c.bypassed(o, route)
		return
	}
	c.routeName(o, route, filter)
	for cluster := range route.get("route", "weighted_clusters", "clusters").items() {
		if cluster.get("typed_per_filter_config").get(filter.name).there() {
			onCluster := c.override(o, cluster, filter)
			if onCluster.off.there() {
				c.bypassed(onCluster, route)
				continue
			}
			c.routeName(onCluster, route, filter)
		}
	}
}

// routeName checks that the kernel knows the name, and gets the phases that the route needs.
func (c *envoyCheck) routeName(o override, route place, filter extProcAt) {
	at := o.metadata
	if !at.there() {
		at = o.service
	}
	name := at.text()
	switch {
	case strings.Contains(strings.ReplaceAll(name, "%%", ""), "%"):
		c.fail(at.pos, "%q is a format string to Envoy; legal is %%%% for a percent sign", name)
		return
	case name != "":
		name = strings.ReplaceAll(name, "%%", "%")
	case sendsAttribute(filter.cfg, "xds.route_name") && route.get("name").text() != "":
		at, name = route.get("name"), route.get("name").text()
	default:
		c.fail(route.pos, "the route has no name for the engine; legal is %s in overrides.grpc_initial_metadata of %s in typed_per_filter_config", routeMetadata, filter.name)
		return
	}
	if name == config.RouteNotFound {
		return // The kernel refuses what comes by it, as unknown_route says.
	}
	i := slices.IndexFunc(c.kernel.Routes, func(r config.Route) bool { return r.Name == name })
	if i < 0 {
		c.fail(at.pos, "%q is not a route of %s; legal are %s", name, c.kernel.File, someNames(c.kernel))
		return
	}
	c.named[name] = true
	c.duplexRoute(o.mode, route, &c.kernel.Routes[i], filter)
	// The default is to send them.
	if len(c.kernel.Routes[i].Response.Chain) > 0 && o.responseMode == "SKIP" && !filter.cfg.get("allow_mode_override").isTrue() {
		c.fail(route.pos, "route %q has policies on the response, which the engine never sees; legal is response_header_mode SEND in overrides.processing_mode", name)
	}
}

// sendsAttribute reports whether Envoy sends the kernel an attribute with the headers of a request.
func sendsAttribute(filter place, name string) bool {
	for attribute := range filter.get("request_attributes").items() {
		if attribute.text() == name {
			return true
		}
	}
	return false
}
