package requestsizelimit

import (
	"encoding/binary"
	"errors"

	"github.com/policy-engine/policy-engine/policies"
)

// headerLimits bound the header fields; 0 is no limit.
type headerLimits struct {
	count, bytes int64
	many, long   policies.Verdict
	limited      policies.Counter
}

// check reports whether the fields are within the limits. A field is as long as its name and value (without the 32 bytes that RFC 9113 section 6.5.2 adds); pseudo-headers count
// too, so that the path does.
func (l *headerLimits) check(r *policies.Request) (policies.Verdict, bool) {
	if l.count == 0 && l.bytes == 0 {
		return policies.Verdict{}, true
	}
	var count, bytes int64
	for name, value := range r.Headers() {
		count++
		bytes += int64(len(name) + len(value))
	}
	switch {
	case l.count > 0 && count > l.count:
		l.limited.Inc()
		return l.many, false
	case l.bytes > 0 && bytes > l.bytes:
		l.limited.Inc()
		return l.long, false
	}
	return policies.Verdict{}, true
}

// bodyLimit bounds the body, in bytes.
type bodyLimit struct {
	on       bool
	limit    int64
	tooLarge policies.Verdict
	bad      policies.Verdict
	limited  policies.Counter
}

func (l *bodyLimit) refuse() policies.Verdict {
	l.limited.Inc()
	return l.tooLarge
}

func (l *bodyLimit) malformed() policies.Verdict {
	l.limited.Inc()
	return l.bad
}

// contentLength reads what the request announces. It is not ok when that can't be told: several fields, a list, a sign, anything that is not 1*DIGIT (RFC 9110 section 8.6).
func contentLength(r *policies.Request) (length int64, announced, ok bool) {
	value, n := r.Header("content-length")
	if n == 0 {
		return 0, false, true
	}
	if n > 1 || len(value) == 0 {
		return 0, false, false
	}
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, false, false
		}
		// Longer than any limit is as good as the exact number.
		if length = length*10 + int64(c-'0'); length > maxLength {
			length = maxLength
		}
	}
	return length, true, true
}

// maxLength is what longer announcements count as; no limit reaches it.
const maxLength = 1 << 58

// encodeCount is what travels from chunk to chunk.
func encodeCount(n int64) []byte { return binary.AppendUvarint(nil, uint64(n)) }

func decodeCount(state []byte) (int64, error) {
	if len(state) == 0 {
		return 0, nil
	}
	n, size := binary.Uvarint(state)
	if size != len(state) || n > maxLength {
		return 0, errors.New("count body: the state is malformed")
	}
	return int64(n), nil
}
