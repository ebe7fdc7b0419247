// Package conformance is a table of scenarios: what a client sends through the real Envoy, on a route with which policies, what the upstream answers, and what
// client and upstream must see of it then.
//
// Each has a route of its own, so that they run at the same time, against one Envoy and one engine for each transport. Between the two stands a tap that
// holds every message against the grammar of ext_proc.
package conformance
