package config

import (
	"fmt"
	"time"

	"github.com/policy-engine/policy-engine/config/internal/document"
)

func (c *checker) kernel(d *document.Kernel) *Kernel {
	k := &Kernel{
		File:   c.file,
		Server: c.server(&d.Server, &d.Admin),
		Admin: Admin{
			Address: string(d.Admin.Address), Port: d.Admin.Port, GuardedAddress: string(d.Admin.GuardedAddress), Token: string(d.Admin.Token), TokenFile: d.Admin.TokenFile,
			MaxConnections: d.Admin.MaxConnections, MaxConnectionsPerPeer: d.Admin.MaxConnectionsPerPeer,
		},
		Workers:             c.workers(d),
		UnknownRoute:        UnknownRoute(d.UnknownRoute.Action),
		RouteNotFoundStatus: d.UnknownRoute.Status,
		Routes:              c.routes(d.RoutePolicies),
		IdentityHeaders:     c.identityHeaders(d),
		ClientAddress:       ClientAddress{TrustedHops: d.ClientAddress.TrustedHops},
		PolicyNotSupported:  c.immediateResponse(&d.PolicyNotSupportedResponse),
		WorkerUnavailable:   c.immediateResponse(&d.WorkerUnavailableResponse),
		Refusals:            c.refusals(&d.Refusals),
		Drain:               Drain{Delay: time.Duration(d.Drain.Delay), Deadline: time.Duration(d.Drain.Deadline)},
		Limits: Limits{
			MaxBodySize: int(d.Limits.MaxBodySize), MaxTotalBodySize: int(d.Limits.MaxTotalBodySize),
			MaxHeaderCount: d.Limits.MaxHeaderCount, MaxHeaderSize: int(d.Limits.MaxHeaderSize),
			MaxResponseHeaderSize: int(d.Limits.MaxResponseHeaderSize),
		},
		Observability: Observability{LogLevel: string(d.Observability.LogLevel), Tracing: c.kernelTracing(&d.Observability.Tracing)},
		Fixed:         fixed(d, c.origins),
		origins:       c.origins,
	}
	if d.Admin.Has("token") && d.Admin.Has("token_file") {
		c.fail(d.Admin.At("token_file"), "stands beside token; legal is one of them")
	}
	if l := &d.Limits; k.Limits.MaxTotalBodySize < k.Limits.MaxBodySize && l.MaxTotalBodySize > 0 {
		c.fail(l.At("max_total_body_size"), "is less than max_body_size; legal is at least as much")
	}
	if len(k.Workers) == 0 && !d.Has("workers") {
		for i := range k.Routes {
			if r := &k.Routes[i]; len(r.Request.Chain)+len(r.Response.Chain) > 0 {
				c.fail(d.At("workers"), "the key is missing; it is required when a route has policies")
				break
			}
		}
	}
	return k
}

func (c *checker) workers(d *document.Kernel) []WorkerRef {
	workerNames, sockets := names{}, names{}
	sockets.add(c, string(d.Server.SocketPath), d.Server.At("socket_path"), "")
	out := make([]WorkerRef, 0, len(d.Workers))
	for i := range d.Workers {
		w := &d.Workers[i]
		workerNames.add(c, string(w.Name), w.At("name"), "replicas of a worker are socket_paths of one entry")
		paths, pos := w.SocketPaths, w.At("socket_paths")
		if w.Has("socket_path") {
			paths, pos = []document.SocketPath{w.SocketPath}, w.At("socket_path")
		}
		ref := WorkerRef{
			Name:        string(w.Name),
			Connections: w.Connections,
			Timeout:     time.Duration(w.Timeout),
			MaxInFlight: w.MaxInFlight, RouteShare: w.RouteShare, MaxQueued: w.MaxQueued, QueueTimeout: time.Duration(w.QueueTimeout),
			Retry:     Retry{MaxAttempts: w.Retry.MaxAttempts, Backoff: time.Duration(w.Retry.Backoff), HedgeAfter: time.Duration(w.Retry.HedgeAfter)},
			Breaker:   CircuitBreaker{ConsecutiveFailures: w.CircuitBreaker.ConsecutiveFailures, OpenTime: time.Duration(w.CircuitBreaker.OpenTime)},
			SlowStart: time.Duration(w.SlowStart),
			HealthCheck: HealthCheck{
				Interval: time.Duration(w.HealthCheck.Interval), Timeout: time.Duration(w.HealthCheck.Timeout), UnhealthyThreshold: w.HealthCheck.UnhealthyThreshold,
			},
			Pos: Pos(w.Pos()),
		}
		for _, p := range paths {
			sockets.add(c, string(p), pos, "each socket has one owner")
			ref.SocketPaths = append(ref.SocketPaths, string(p))
		}
		out = append(out, ref)
	}
	return out
}

func (c *checker) identityHeaders(d *document.Kernel) (h IdentityHeaders) {
	configured := make(map[string]bool, len(d.RoutePolicies))
	for i := range d.RoutePolicies {
		configured[string(d.RoutePolicies[i].RouteName)] = true
	}
	kept := names{}
	for i, route := range d.IdentityHeaders.KeepOn {
		name, pos := string(route), d.IdentityHeaders.At("keep_on")
		pos.Path += fmt.Sprintf("[%d]", i)
		if name != "" && !configured[name] {
			c.fail(pos, "unknown route %q, expected the name of a route of route_policies", name)
		}
		kept.add(c, name, pos, "each route stands in the list once")
		h.KeepOn = append(h.KeepOn, name)
	}
	return h
}

func (c *checker) routes(d []document.Route) []Route {
	routeNames := names{}
	out := make([]Route, 0, len(d))
	for i := range d {
		r := &d[i]
		routeNames.add(c, string(r.RouteName), r.At("route_name"), "each route stands in one entry")
		c.warnOfPattern(string(r.RouteName), r.At("route_name"))
		if r.RouteName == RouteNotFound {
			c.fail(r.At("route_name"), "%q is the name of Envoy's route for requests that match no other; choose another name", RouteNotFound)
		}
		out = append(out, Route{
			Name:     string(r.RouteName),
			Request:  flow(&r.RequestFlow),
			Response: flow(&r.ResponseFlow),
			Pos:      Pos(r.Pos()),
		})
	}
	return out
}

func flow(d *document.Flow) Flow {
	f := Flow{Mode: ProcessingMode(d.ProcessingMode), Chain: make([]Policy, 0, len(d.PolicyChain))}
	for i := range d.PolicyChain {
		p := &d.PolicyChain[i]
		f.Chain = append(f.Chain, Policy{
			Name:       string(p.Policy),
			Params:     p.Params.JSON,
			OnFailure:  OnFailure(p.OnFailure),
			Timeout:    time.Duration(p.Timeout),
			Pos:        Pos(p.Pos()),
			ParamLines: p.Params.Lines,
		})
	}
	return f
}
