// Package headermap reads and writes the encoding of envoy.config.core.v3.HeaderMap without copies and without garbage.
package headermap

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"
)

// Field is one header line. Both slices alias the encoding that was parsed.
type Field struct {
	Name  []byte
	Value []byte
}

// The ways in which an encoding can be wrong.
var (
	ErrTruncated   = errors.New("header map: truncated message")
	ErrWireType    = errors.New("header map: field with the wrong wire type")
	ErrNameUTF8    = errors.New("header map: name is not valid UTF-8")
	ErrValueUTF8   = errors.New("header map: value field is not valid UTF-8")
	ErrEmptyName   = errors.New("header map: field without a name")
	ErrTwoValues   = errors.New("header map: both value and raw_value are set")
	ErrTooMany     = errors.New("header map: too many fields")
	ErrInvalidName = errors.New("header map: name has a character that no header name has")
)

// MaxFields is how many fields one map may have.
const MaxFields = 1024

// Parse appends the fields of the encoded header map src to dst, in their order. The fields alias src.
//
// Either value (Envoy before raw_value, stock clients) or raw_value (Envoy 1.36) may carry the value; both at
// once are an error, because two readers could disagree on which one counts. Names are text: invalid UTF-8 and
// control characters are errors. On an error the fields appended so far are to be thrown away.
func Parse(dst []Field, src []byte) ([]Field, error) {
	n := 0
	for len(src) > 0 {
		if f, rest, ok := common(src); ok {
			if n++; n > MaxFields {
				return dst, ErrTooMany
			}
			src, dst = rest, append(dst, f)
			continue
		}
		num, wire, rest, ok := tag(src)
		if !ok {
			return dst, ErrTruncated
		}
		if num != 1 {
			if src, ok = skip(rest, wire); !ok {
				return dst, ErrTruncated
			}
			continue
		}
		if wire != 2 {
			return dst, ErrWireType
		}
		body, rest, ok := lengthDelimited(rest)
		if !ok {
			return dst, ErrTruncated
		}
		src = rest
		if n++; n > MaxFields {
			return dst, ErrTooMany
		}
		f, err := parseField(body)
		if err != nil {
			return dst, err
		}
		dst = append(dst, f)
	}
	return dst, nil
}

// common takes a field as Envoy writes it: key, then raw_value unless it is empty. Whatever else comes, wrong or only unusual, is not ok, and left to the slow
// path.
func common(src []byte) (f Field, rest []byte, ok bool) {
	if src[0] != 1<<3|2 {
		return f, nil, false
	}
	body, rest, ok := lengthDelimited(src[1:])
	if !ok || len(body) < 3 || body[0] != 1<<3|2 {
		return f, nil, false
	}
	n := int(body[1])
	if n == 0 || n >= 0x80 || len(body)-2 < n {
		return f, nil, false
	}
	f.Name = body[2 : 2+n : 2+n]
	if !plainName(f.Name) {
		return f, nil, false
	}
	if body = body[2+n:]; len(body) == 0 {
		return f, rest, true
	}
	if body[0] != 3<<3|2 {
		return f, nil, false
	}
	f.Value, body, ok = lengthDelimited(body[1:])
	return f, rest, ok && len(body) == 0
}

// plainName reports whether all bytes are ASCII, and none a control, space or DEL. It looks at eight bytes at a time.
func plainName(name []byte) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for ; len(name) >= 8; name = name[8:] {
		x := binary.LittleEndian.Uint64(name)
		// A byte below 0x21 borrows, 0x7f carries into the high bit, and what is not ASCII has it.
		if ((x-ones*0x21)|(x+ones)|x)&high != 0 {
			return false
		}
	}
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

func parseField(src []byte) (f Field, err error) {
	var value, raw []byte
	for len(src) > 0 {
		num, wire, rest, ok := tag(src)
		if !ok {
			return f, ErrTruncated
		}
		if num < 1 || num > 3 {
			if src, ok = skip(rest, wire); !ok {
				return f, ErrTruncated
			}
			continue
		}
		if wire != 2 {
			return f, ErrWireType
		}
		body, rest, ok := lengthDelimited(rest)
		if !ok {
			return f, ErrTruncated
		}
		src = rest
		switch num {
		case 1:
			if err := checkName(body); err != nil {
				return f, err
			}
			f.Name = body
		case 2:
			if !utf8.Valid(body) {
				return f, ErrValueUTF8
			}
			value = body
		case 3:
			raw = body
		}
	}
	if len(f.Name) == 0 {
		return f, ErrEmptyName
	}
	if len(value) > 0 {
		if len(raw) > 0 {
			return f, ErrTwoValues
		}
		f.Value = value
		return f, nil
	}
	f.Value = raw
	return f, nil
}

// checkName refuses what is not text and what could end a name early (controls, space, DEL).
func checkName(name []byte) error {
	ascii := true
	for _, c := range name {
		if c <= ' ' || c == 0x7f {
			return ErrInvalidName
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	if !ascii && !utf8.Valid(name) {
		return ErrNameUTF8
	}
	return nil
}

// AppendField appends one field to an encoded header map, with the value in raw_value as Envoy sends it.
func AppendField(dst []byte, name, value string) []byte {
	inner := 1 + uvarintLen(len(name)) + len(name) + 1 + uvarintLen(len(value)) + len(value)
	dst = append(dst, 1<<3|2)
	dst = binary.AppendUvarint(dst, uint64(inner))
	dst = append(dst, 1<<3|2)
	dst = binary.AppendUvarint(dst, uint64(len(name)))
	dst = append(dst, name...)
	dst = append(dst, 3<<3|2)
	dst = binary.AppendUvarint(dst, uint64(len(value)))
	return append(dst, value...)
}

func uvarintLen(n int) int {
	l := 1
	for u := uint64(n); u >= 0x80; u >>= 7 {
		l++
	}
	return l
}

func tag(src []byte) (num uint64, wire int, rest []byte, ok bool) {
	v, n := binary.Uvarint(src)
	if n <= 0 || v>>3 == 0 || v>>3 > 1<<29-1 {
		return 0, 0, nil, false
	}
	return v >> 3, int(v & 7), src[n:], true
}

func lengthDelimited(src []byte) (body, rest []byte, ok bool) {
	// Fast path: lengths below 128 are one byte.
	if len(src) > 0 && src[0] < 0x80 {
		l := int(src[0])
		if len(src)-1 < l {
			return nil, nil, false
		}
		return src[1 : 1+l : 1+l], src[1+l:], true
	}
	// Slow path: longer ones.
	v, n := binary.Uvarint(src)
	if n <= 0 || v > uint64(len(src)-n) {
		return nil, nil, false
	}
	l := int(v)
	return src[n : n+l : n+l], src[n+l:], true
}

func skip(src []byte, wire int) (rest []byte, ok bool) {
	switch wire {
	case 0:
		_, n := binary.Uvarint(src)
		if n <= 0 {
			return nil, false
		}
		return src[n:], true
	case 1:
		if len(src) < 8 {
			return nil, false
		}
		return src[8:], true
	case 2:
		_, rest, ok := lengthDelimited(src)
		return rest, ok
	case 5:
		if len(src) < 4 {
			return nil, false
		}
		return src[4:], true
	}
	return nil, false
}
