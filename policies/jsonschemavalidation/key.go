package jsonschemavalidation

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// maxSchemaExponent is what larger exponents of the schema count as.
const maxSchemaExponent = 1 << 30

// maxKey bounds the key of a value of the schema. It is never reached.
const maxKey = 1 << 30

// appendKey appends a text that equal values have in common, and no others (JSON Schema section 4.2.2). It ends, and
// whole is false, when the text has become longer than most bytes.
func appendKey(dst []byte, value any, most int) (key []byte, whole bool) {
	switch value := value.(type) {
	case nil:
		dst = append(dst, 'n')
	case bool:
		dst = strconv.AppendBool(dst, value)
	case json.Number:
		dst = append(appendNumber(dst, string(value)), ';')
	case string:
		return appendText(dst, value, most)
	case []any:
		dst = append(dst, '[')
		for _, item := range value {
			if dst, whole = appendKey(dst, item, most); !whole {
				return dst, false
			}
		}
		dst = append(dst, ']')
	case map[string]any:
		if len(dst)+len(value) > most { // Each member has more than one byte.
			return dst, false
		}
		dst = append(dst, '{')
		for _, name := range slices.Sorted(maps.Keys(value)) {
			if dst, whole = appendText(dst, name, most); !whole {
				return dst, false
			}
			if dst, whole = appendKey(dst, value[name], most); !whole {
				return dst, false
			}
		}
		dst = append(dst, '}')
	}
	return dst, len(dst) <= most
}

// appendText appends a text with its length before it.
func appendText(dst []byte, text string, most int) (key []byte, whole bool) {
	if len(dst)+len(text) > most {
		return dst, false
	}
	dst = append(strconv.AppendInt(append(dst, '"'), int64(len(text)), 10), ':')
	dst = append(dst, text...)
	return dst, len(dst) <= most
}

// appendNumber appends a number in the one form that all spellings of it have: digits without zeros around them, 'e',
// and the exponent of the last one.
func appendNumber(dst []byte, n string) []byte {
	digits, exponent := parts(n)
	if digits == "" {
		return append(dst, '0')
	}
	if n[0] == '-' {
		dst = append(dst, '-')
	}
	return strconv.AppendInt(append(append(dst, digits...), 'e'), int64(exponent), 10)
}

// isInteger reports whether the number has no fraction: 1.0 and 1e2 have none.
func isInteger(n json.Number) bool {
	_, exponent := parts(string(n))
	return exponent >= 0
}

// parts returns the digits of a number without zeros around them, empty for 0, and the exponent of the last one.
func parts(n string) (digits string, exponent int) {
	n = strings.TrimPrefix(n, "-")
	if i := strings.IndexAny(n, "eE"); i >= 0 {
		exponent, _ = strconv.Atoi(n[i+1:]) // That of a number in the schema may be too large; any that no body has will do.
		exponent = min(max(exponent, -maxSchemaExponent), maxSchemaExponent)
		n = n[:i]
	}
	whole, fraction, _ := strings.Cut(n, ".")
	all := whole + fraction
	exponent -= len(fraction)
	digits = strings.TrimRight(all, "0")
	exponent += len(all) - len(digits)
	digits = strings.TrimLeft(digits, "0")
	if digits == "" {
		return "", 0
	}
	return digits, exponent
}
