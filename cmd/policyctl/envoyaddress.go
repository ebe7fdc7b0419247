package main

import (
	"encoding/json"
	"slices"
	"strconv"

	"github.com/policy-engine/policy-engine/policies/ratelimit"
	"github.com/policy-engine/policy-engine/policies/tokenquota"
)

const typeXFFDetection = "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig"

// address compares how the kernel finds the client's address with how Envoy does (conn_manager_utility.cc,
// mutateRequestHeaders). A difference is a mistake where a policy decides by the address, and a note where one may only
// report it.
func (c *envoyCheck) address(manager, listener, extProc place) {
	report := c.note
	switch decides, mayUse := c.usesAddress(); {
	case decides:
		report = func(at place, format string, args ...any) { c.fail(at.pos, format, args...) }
	case !mayUse && c.kernel.ClientAddress.TrustedHops == 0:
		return
	}
	remote := manager.get("use_remote_address").isTrue() || manager.get("use_remote_address", "value").isTrue()
	detection := manager.get("original_ip_detection_extensions")
	if !remote && !anyItem(detection) {
		c.note(manager, "use_remote_address is not true: the client's address is what the peer of Envoy sends in x-forwarded-for, so a proxy "+
			"that clients can't go round has to stand in front of it and append to the header")
	}
	if sendsAttribute(extProc, "source.address") {
		return // Envoy's own decision counts.
	}
	const attribute = "; or add request_attributes: [source.address] to the ext_proc filter, and Envoy's decision counts"
	if remote && !isIPListener(listener) {
		report(manager, "Envoy appends nothing to x-forwarded-for on a listener that is not on an IP address: the client's address is what the "+
			"client sends; set use_remote_address to false behind a proxy that appends to the header"+attribute)
		return
	}
	at, hops, known := envoyHops(manager, detection, remote)
	got := c.kernel.ClientAddress.TrustedHops
	switch {
	case !known:
		report(at, "the kernel does not know how Envoy finds the client's address here; add request_attributes: [source.address] to the ext_proc filter")
	case hops < 0:
		report(at, "the address of Envoy's peer is not in x-forwarded-for (skip_xff_append): the client's address is what the client sends; remove "+
			"skip_xff_append"+attribute)
	case got < hops:
		report(at, "Envoy trusts %d hops of x-forwarded-for and the kernel %d (policy_kernel.client_address.trusted_hops): all clients behind a "+
			"proxy have the address of that proxy; set trusted_hops to %d%s", hops, got, hops, attribute)
	case got > hops:
		report(at, "Envoy trusts %d hops of x-forwarded-for and the kernel %d (policy_kernel.client_address.trusted_hops): the client's address is "+
			"what the client sends; set trusted_hops to %d%s", hops, got, hops, attribute)
	}
}

// envoyHops returns how many entries of x-forwarded-for, as the kernel gets it, stand right of the address that Envoy
// takes for the client's; less than none if it is the peer's and not in the header. It is not known if Envoy does not
// count entries.
func envoyHops(manager, detection place, remote bool) (at place, hops int, known bool) {
	at, hops = number(manager, "xff_num_trusted_hops")
	switch {
	case hops < 0:
		return at, 0, false
	case remote && manager.get("skip_xff_append").isTrue():
		return at, hops - 1, true // Envoy counts from its peer, which the header does not have.
	case remote || !anyItem(detection):
		return at, hops, true
	}
	var extensions []place
	for e := range detection.items() {
		extensions = append(extensions, e.get("typed_config"))
	}
	xff := extensions[0]
	if len(extensions) > 1 || !xff.isType(typeXFFDetection) || xff.get("xff_trusted_cidrs").there() {
		return detection, 0, false
	}
	if at, hops = number(xff, "xff_num_trusted_hops"); hops < 0 {
		return at, 0, false
	}
	if skip := xff.get("skip_xff_append"); skip.text() == "false" || skip.get("value").text() == "false" {
		hops++ // It is appended after Envoy has looked.
	}
	return at, hops, true
}

// number returns the number of a key and its place, 0 and the place of the mapping if it is not there, and -1 if it is
// not a number.
func number(of place, key string) (at place, n int) {
	at = of.get(key)
	if value := at.get("value"); value.there() {
		at = value
	}
	if !at.there() {
		return of, 0
	}
	n, err := strconv.Atoi(at.text())
	if err != nil || n < 0 {
		return at, -1
	}
	return at, n
}

func anyItem(list place) bool {
	for range list.items() {
		return true
	}
	return false
}

// isIPListener reports whether clients come from IP addresses, as far as the file tells.
func isIPListener(listener place) bool {
	address := listener.get("address")
	return !address.get("pipe").there() && !address.get("envoy_internal_address").there()
}

// usesAddress reports whether a policy of the configuration decides by the client's address, and whether one may use it
// at all: auditLog does, and so may policies that policyctl does not know.
func (c *envoyCheck) usesAddress() (decides, mayUse bool) {
	known := newCatalogue()
	for i := range c.kernel.Routes {
		route := &c.kernel.Routes[i]
		for _, p := range slices.Concat(route.Request.Chain, route.Response.Chain) {
			switch p.Name {
			// Mistakes in parameters are reported elsewhere.
			case "rateLimit":
				var params ratelimit.Params
				decides = decides || json.Unmarshal(p.Params, &params) == nil && params.Key.Uses("client_ip")
			case "tokenQuota":
				var params tokenquota.Params
				decides = decides || json.Unmarshal(p.Params, &params) == nil && params.Key.Uses("client_ip")
			case "auditLog":
				mayUse = true
			default:
				_, ours := known[p.Name]
				mayUse = mayUse || !ours
			}
		}
	}
	return decides, mayUse
}
