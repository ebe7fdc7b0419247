package bucket

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/policy-engine/policy-engine/policies"
)

// Client says what makes two requests those of one client.
type Client struct {
	// alternatives are tried in their order: the first one counts whose parts the request all has.
	alternatives [][]part
	// missing is why a request without any of them can't be decided.
	missing error
}

// part is something that a key is made of.
type part struct {
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
	errNoAddress  = errors.New("limit rate by client_ip: the client's address is not known; compare client_address.trusted_hops of the kernel with " +
		"Envoy's use_remote_address and xff_num_trusted_hops (policyctl validate --envoy)")
)

// Key returns the key of the request's bucket. Every field is hashed with its kind and length, so that no two lists of
// fields are the same bytes.
func (k *Client) Key(r *policies.Request, place []byte) (Key, error) {
	var buf [512]byte // Longer ones are legal, and cost an allocation.
	b := appendField(buf[:0], place)
	last := len(k.alternatives) - 1
	for i, parts := range k.alternatives {
		key, ok := appendParts(b, parts, r, i == last)
		if !ok {
			continue
		}
		sum := sha256.Sum256(key)
		return Key(sum[:len(Key{})]), nil
	}
	return Key{}, k.missing
}

// appendParts appends what the request has of the parts. It is not ok if one is missing. In the last alternative, a
// header that is missing, or there more than once, makes the request one of all such: it is not known which one the
// upstream takes.
func appendParts(b []byte, parts []part, r *policies.Request, last bool) ([]byte, bool) {
	for i := range parts {
		p := &parts[i]
		b = append(b, byte(p.kind))
		switch p.kind {
		case byIdentity:
			id := r.Identity()
			if id == nil {
				return nil, false
			}
			// A subject means nothing without who says so: two issuers may both know an alice.
			b = appendField(b, id.Method)
			b = appendField(b, id.Issuer)
			b = appendField(b, id.Subject)
		case byClientIP:
			address := r.ClientAddress()
			if !address.IsValid() {
				return nil, false
			}
			network := clientNetwork(address).As16()
			b = append(b, network[:]...)
		case byRoute: // It is the place's.
		case byHeader:
			b = appendField(b, p.header)
			value, n := r.Header(p.header)
			switch {
			case n == 1 && r.Spellings(p.header) == 1:
				b = appendField(append(b, 1), value)
			case last:
				b = append(b, 0)
			default:
				return nil, false
			}
		}
	}
	return b, true
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

// missingOf is the error of requests that have none of the alternatives.
func missingOf(p Param) error {
	if len(p) == 1 && len(p[0]) == 1 {
		switch p[0][0] {
		case "identity":
			return errNoIdentity
		case "client_ip":
			return errNoAddress
		}
	}
	return fmt.Errorf("limit rate by %s: the request has none of these", p)
}
