package policies

import (
	"bytes"
	"net/netip"

	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/fastpath/view"
)

// forwardedFor is the header to which each proxy appends the address of its peer.
const forwardedFor = "x-forwarded-for"

// ClientAddress returns the address of the client, or the zero Addr if it is not known. All policies of a kernel use
// the same one:
//
//   - The address that Envoy determined, if its ext_proc filter sends it (request_attributes: [source.address]).
//   - Otherwise an entry of x-forwarded-for: the one with client_address.trusted_hops entries to its right, over all
//     lines of the header. Without trusted hops that is the last one, which Envoy appended (use_remote_address).
//     Entries further left are the client's own.
//
// The header counts as Envoy sent it: what policies change in it has no effect here. x-envoy-external-address is not
// used, because Envoy passes on what the client sent in it wherever Envoy does not set it (use_remote_address: false,
// or a client with an internal address).
//
// The address has no zone, and an IPv4 address in IPv6 form (::ffff:192.0.2.1) is the IPv4 address: equal addresses are
// equal values. A policy that requires the address returns an error for the zero Addr, or denies.
func (r *Request) ClientAddress() netip.Addr {
	r.x.check()
	if len(r.x.source) > 0 {
		address, _ := ParseClientAddress(r.x.source)
		return address
	}
	fields := r.headers.fields
	if r.x.changedHeader(forwardedFor) {
		var err error
		if r.x.client, err = headermap.Parse(r.x.client[:0], r.x.clientMap); err != nil {
			return netip.Addr{} // BeginRequest has parsed it.
		}
		fields = r.x.client
	}
	skip := r.x.trustedHops
	for i := len(fields) - 1; i >= 0; i-- {
		if !equalFold(fields[i].Name, forwardedFor) {
			continue
		}
		rest := fields[i].Value
		for {
			comma := bytes.LastIndexByte(rest, ',')
			if skip == 0 {
				address, _ := ParseClientAddress(rest[comma+1:])
				return address
			}
			skip--
			if comma < 0 {
				break
			}
			rest = rest[:comma]
		}
	}
	return netip.Addr{}
}

// changedHeader reports whether a policy changed the header of the request.
func (x *Exchange) changedHeader(name string) bool {
	for i := range x.changes {
		c := &x.changes[i]
		if !c.Response && !c.Trailer && c.Kind <= RemoveHeader && equalFold(view.Bytes(c.Name), name) {
			return true
		}
	}
	return false
}

// maxClientAddress is the longest text of an address with its zone and port, in bytes.
const maxClientAddress = 128

// ParseClientAddress parses an address as proxies write it: IPv4 or IPv6, with or without a port (192.0.2.1:443,
// [2001:db8::1]:443), brackets without a port, and spaces and tabs around it. The result has no zone, and an
// IPv4-mapped IPv6 address is the IPv4 address. Everything else is not an address: names, "unknown", obfuscated
// identifiers (RFC 7239 section 6.3), quoted text, CIDR ranges.
func ParseClientAddress(text []byte) (netip.Addr, bool) {
	text = bytes.Trim(text, " \t")
	if len(text) == 0 || len(text) > maxClientAddress {
		return netip.Addr{}, false
	}
	bracketed := text[0] == '['
	if bracketed {
		end := bytes.IndexByte(text, ']')
		if end < 0 || !isPort(text[end+1:]) {
			return netip.Addr{}, false
		}
		text = text[1:end]
	} else if colon := bytes.IndexByte(text, ':'); colon >= 0 && bytes.IndexByte(text[colon+1:], ':') < 0 {
		// One colon: IPv4 with a port.
		if !isPort(text[colon:]) {
			return netip.Addr{}, false
		}
		text = text[:colon]
	}
	// The zone is cut off here: ParseAddr would copy it.
	address, zone, zoned := bytes.Cut(text, []byte{'%'})
	isV6 := bytes.IndexByte(address, ':') >= 0 // Only IPv6 addresses have zones and brackets; a zone may have colons itself.
	if (bracketed || zoned) && !isV6 || zoned && len(zone) == 0 {
		return netip.Addr{}, false
	}
	// Without a zone, ParseAddr keeps no reference to the text.
	parsed, err := netip.ParseAddr(view.String(address))
	if err != nil {
		return netip.Addr{}, false
	}
	return parsed.Unmap(), true
}

// isPort reports whether text is empty, or a colon and a port number from 0 to 65535.
func isPort(text []byte) bool {
	if len(text) == 0 {
		return true
	}
	if text[0] != ':' || len(text) < 2 || len(text) > 6 {
		return false
	}
	port := 0
	for _, c := range text[1:] {
		if !digit(c) {
			return false
		}
		port = port*10 + int(c-'0')
	}
	return port <= 65535
}
