package policies

import (
	"fmt"
	"slices"
)

// Bounds of the claims of an API key: they travel with each request.
const (
	MaxKeyGroups   = 64
	MaxKeyMetadata = 32
	// MaxKeyClaims is how many bytes the claims of a key have at most, as JSON.
	MaxKeyClaims = 4 << 10
)

// groupsClaim is the claim that lists the groups of an API key.
const groupsClaim = "groups"

// tokenClaims are claims whose meaning is that of a token (RFC 7519 section 4.1, RFC 8693 section 4.2): a policy would take the
// metadata of a key for what a token's issuer says.
var tokenClaims = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope", "scp", "client_id", "azp"}

// KeyClaims returns the groups and the metadata of an API key in the form of the claims of a token: the claim groups is the list of
// groups, and each entry of the metadata is a claim of its name. It returns nil for none.
func KeyClaims(groups []string, metadata []Entry) (*ClaimsSet, error) {
	if len(groups) == 0 && len(metadata) == 0 {
		return nil, nil
	}
	if len(groups) > MaxKeyGroups {
		return nil, fmt.Errorf("must have at most %d groups, got %d", MaxKeyGroups, len(groups))
	}
	if len(metadata) > MaxKeyMetadata {
		return nil, fmt.Errorf("must have at most %d entries of metadata, got %d", MaxKeyMetadata, len(metadata))
	}
	text := []byte{'{'}
	if len(groups) > 0 {
		text = append(appendASCII(text, groupsClaim), ":["...)
		for i, group := range groups {
			if i > 0 {
				text = append(text, ',')
			}
			text = appendASCII(text, group)
		}
		text = append(text, ']')
	}
	for _, entry := range metadata {
		if entry.Key == groupsClaim || slices.Contains(tokenClaims, entry.Key) {
			return nil, fmt.Errorf("metadata %q has another meaning; expected another name", entry.Key)
		}
		if len(text) > 1 {
			text = append(text, ',')
		}
		text = append(appendASCII(text, entry.Key), ':')
		text = appendASCII(text, entry.Value)
	}
	if text = append(text, '}'); len(text) > MaxKeyClaims {
		return nil, fmt.Errorf("groups and metadata must have at most %d bytes together as JSON, got %d", MaxKeyClaims, len(text))
	}
	return ParseClaimsSet(text)
}
