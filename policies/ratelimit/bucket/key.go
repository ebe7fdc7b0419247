package bucket

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

// Client says what makes two requests those of one client.
type Client struct {
	kind   keyKind
	header string
}

type keyKind uint8

const (
	byIdentity keyKind = iota
	byClientIP
	byRoute
	byHeader
)

// A request without what the key is made of can't be decided.
var (
	errNoIdentity = errors.New("limit rate by identity: the request has none; an authentication policy has to stand before this one, and may not let requests pass without")
	errNoAddress  = errors.New("limit rate by client_ip: the last entry of x-forwarded-for is not an address; Envoy has to append it (use_remote_address)")
)

// Key returns the key of the request's bucket. Every field is hashed with its length, so that no two lists of fields are the same bytes.
func (k Client) Key(r *policies.Request, place []byte) (Key, error) {
	var buf [512]byte // Longer ones are legal, and cost an allocation.
	b := appendField(buf[:0], place)
	switch k.kind {
	case byIdentity:
		id := r.Identity()
		if id == nil {
			return Key{}, errNoIdentity
		}
		// A subject means nothing without who says so: two issuers may both know an alice.
		b = appendField(b, id.Method)
		b = appendField(b, id.Issuer)
		b = appendField(b, id.Subject)
	case byClientIP:
		address := r.ClientAddress()
		if !address.IsValid() {
			return Key{}, errNoAddress
		}
		network := clientNetwork(address).As16()
		b = append(b, network[:]...)
	case byHeader:
		// A field that is missing, or there more than once, makes the request one of all such: there is no telling which one the upstream takes.
		if value, n := r.Header(k.header); n == 1 && r.Spellings(k.header) == 1 {
			b = appendField(b, value)
		}
	}
	sum := sha256.Sum256(b)
	return Key(sum[:len(Key{})]), nil
}

// ParseClient reads a parameter: identity, client_ip, route or header:NAME.
func ParseClient(text string) (Client, bool) {
	switch text {
	case "identity":
		return Client{kind: byIdentity}, true
	case "client_ip":
		return Client{kind: byClientIP}, true
	case "route":
		return Client{kind: byRoute}, true
	}
	header, ok := strings.CutPrefix(text, "header:")
	// Any field may be read that has a legal name, so the rules for fields that may be set are kept out by the prefix. The host is :authority
	// to Envoy, so a field of that name never comes.
	if !ok || header == "" || strings.EqualFold(header, "host") || policies.CheckHeader("a"+header, "") != nil {
		return Client{}, false
	}
	return Client{kind: byHeader, header: strings.ToLower(header)}, true
}

// clientNetwork is the address, or of IPv6 the /64 that it is in: that is what one customer gets (RFC 6177), with 2^64 addresses to come from.
func clientNetwork(address netip.Addr) netip.Addr {
	if address.Is4() {
		return address
	}
	a := address.As16()
	clear(a[8:])
	return netip.AddrFrom16(a)
}

func appendField[T string | []byte](dst []byte, field T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(field)))
	return append(dst, field...)
}
