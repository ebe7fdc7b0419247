package contentcoding

import "bytes"

// Accepted is an accept-encoding value (RFC 9110 section 12.5.3) that names every coding of this package but identity.
const Accepted = "gzip, deflate, br, zstd"

// Narrow reports whether lines of accept-encoding allow a coding that this package does not have, and returns the lines as one value
// without such codings then: in new memory, and never longer than the lines joined, or identity. It allows nothing that the lines do
// not allow. What can't be read as a coding is left out.
func Narrow(lines [][]byte) (value []byte, narrower bool) {
	// Fast path.
	for _, line := range lines {
		for item := range items(line) {
			narrower = narrower || !keeps(item)
		}
	}
	if !narrower {
		return nil, false
	}
	for _, line := range lines {
		for item := range items(line) {
			if !keeps(item) {
				continue
			}
			if len(value) > 0 {
				value = append(value, ", "...)
			}
			value = append(value, item...)
		}
	}
	if len(value) == 0 {
		value = append(value, identity...)
	}
	return value, true
}

// items are the elements of a list (RFC 9110 section 5.6.1) that are not empty.
func items(list []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for more := true; more; {
			var item []byte
			item, list, more = bytes.Cut(list, comma)
			if item = bytes.Trim(item, " \t"); len(item) > 0 && !yield(item) {
				return
			}
		}
	}
}

// keeps reports whether an element of accept-encoding allows no coding that this package does not have.
func keeps(item []byte) bool {
	name, weight, _ := bytes.Cut(item, semicolon)
	name = bytes.TrimRight(name, " \t")
	if len(name) == 1 && name[0] == '*' {
		return isZero(weight) // It refuses what is not named.
	}
	_, known := named(name)
	return known
}

// isZero reports whether a weight is q=0 (RFC 9110 section 12.4.2).
func isZero(weight []byte) bool {
	weight = bytes.Trim(weight, " \t")
	if len(weight) < 3 || len(weight) > 7 || weight[0]|0x20 != 'q' || weight[1] != '=' || weight[2] != '0' {
		return false
	}
	return len(bytes.Trim(weight[3:], "0")) == 0 || weight[3] == '.' && len(bytes.Trim(weight[4:], "0")) == 0
}

var semicolon = []byte{';'}
