package extproc

import "github.com/policy-engine/policy-engine/config"

// unknownStatus returns why the table does not have the route of the request. A request that matches no route of Envoy
// is no mistake of an operator: any scanner of paths sends such. A route that the configuration does not have is one. A
// request without a name can be either: Envoy's filter sends no names, or no route matches and Envoy has no catch-all.
func (m *Machine) unknownStatus() Status {
	switch m.routeName {
	case "":
		return StatusUnnamedRoute
	case config.RouteNotFound:
		return StatusRouteNotFound
	}
	return StatusUnknownRoute
}

// refuseUnknown answers a request whose route the table does not have. To the client, a request that Envoy named no
// route for is one that matches none.
func (m *Machine) refuseUnknown(now Instant) Effect {
	var r refusal
	switch m.unknownStatus() {
	case StatusUnnamedRoute:
		r = unnamedRoute
	case StatusRouteNotFound:
		r = routeNotFound
	default:
		return m.refuse(&unknownRoute, now)
	}
	r.status = m.table.Terms().RouteNotFoundStatus
	return m.refuse(&r, now)
}
