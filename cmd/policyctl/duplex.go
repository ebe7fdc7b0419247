package main

import (
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"

	"github.com/policy-engine/policy-engine/config"
)

// duplexRoutes are the routes that --full-duplex names.
func duplexRoutes(k *config.Kernel, names []string) (map[string]bool, error) {
	known, out := newCatalogue(), map[string]bool{}
	bodies := map[string]bool{}
	for i := range k.Routes {
		r := &k.Routes[i]
		bodies[r.Name] = known.flowMayTakeBodies(&r.Request) || known.flowMayTakeBodies(&r.Response)
	}
	for _, name := range names {
		may, there := bodies[name]
		switch {
		case name == "*":
			for name, may := range bodies {
				out[name] = out[name] || may
			}
		case !there:
			return nil, badUsage("--full-duplex %q is not a route of %s; legal are * and %s", name, k.File, someNames(k))
		case !may:
			return nil, badUsage("--full-duplex %q: no policy of that route takes part in a body; legal are routes whose policies do", name)
		default:
			out[name] = true
		}
	}
	return out, nil
}

// duplexMode is the mode of a route in full duplex. Envoy is told nothing more with the requests of such a route (ext_proc.cc, onReceiveMessage), so all that its policies may
// want is asked for here; and trailers with each body, which Envoy demands (config.cc, verifyProcessingModeConfig).
func (c catalogue) duplexMode(r *config.Route) *extprocv3.ProcessingMode {
	mode := processingMode(len(r.Response.Chain) > 0, false)
	if c.flowMayTakeBodies(&r.Request) {
		mode.RequestBodyMode, mode.RequestTrailerMode = extprocv3.ProcessingMode_FULL_DUPLEX_STREAMED, extprocv3.ProcessingMode_SEND
	}
	if c.flowMayTakeBodies(&r.Response) {
		mode.ResponseBodyMode, mode.ResponseTrailerMode = extprocv3.ProcessingMode_FULL_DUPLEX_STREAMED, extprocv3.ProcessingMode_SEND
	}
	return mode
}

const fullDuplex = "FULL_DUPLEX_STREAMED"

// way is a direction of an Envoy route: what its mode says, and the policies.
type way struct {
	name string
	mode place
	flow *config.Flow
}

func (w way) duplex() bool { return w.mode.get(w.name+"_body_mode").text() == fullDuplex }

// duplexRoute checks a route that is in full duplex, or whose filter is: there the engine can't ask for anything, and refuses routes that would need it.
func (c *envoyCheck) duplexRoute(mode, route place, r *config.Route, filter extProcAt) {
	ofFilter := filter.cfg.get("processing_mode")
	ignored := way{name: "request", mode: ofFilter}.duplex() || way{name: "response", mode: ofFilter}.duplex()
	request, response := way{"request", mode, &r.Request}, way{"response", mode, &r.Response}
	if !ignored && !request.duplex() && !response.duplex() {
		return
	}
	known := newCatalogue()
	for _, w := range []way{request, response} {
		switch trailers := w.mode.get(w.name + "_trailer_mode"); {
		case w.duplex() && trailers.text() != "SEND":
			at := trailers
			if !at.there() {
				at = w.mode
			}
			c.fail(at.pos, "%s_trailer_mode is not SEND, which Envoy demands with %s", w.name, fullDuplex)
		case !w.duplex() && known.flowMayTakeBodies(w.flow):
			c.fail(route.pos, "route %q has policies that may want bodies of the %s, which nobody can ask Envoy for beside %s; legal is %s_body_mode %s too", r.Name, w.name, fullDuplex, w.name, fullDuplex)
		}
	}
	if len(r.Response.Chain) > 0 && mode.get("response_header_mode").text() == "SKIP" {
		c.fail(route.pos, "route %q has policies on the response, which the engine never sees; legal is response_header_mode SEND beside %s", r.Name, fullDuplex)
	}
}
