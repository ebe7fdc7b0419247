package rewritepath

import (
	"bytes"
	"regexp"

	"github.com/policy-engine/policy-engine/fastpath/view"
	"github.com/policy-engine/policy-engine/policies"
)

// maxSpans is how many parts of a path a rule can take over; the first one is the path as a whole, or what follows the prefix.
const maxSpans = 17

// spans are where the parts are in the path: begin and end. A part that is not there has both 0.
type spans [maxSpans][2]int

// rule matches paths and says what becomes of them. One of prefix, segments and regex is what it goes by.
type rule struct {
	prefix   string // without a slash at its end; empty for "/"
	segments []segment
	regex    *regexp.Regexp    // matches the whole path
	counted  *policies.Pattern // the same one, with steps that are counted
	to       []piece
}

// segment is what a template says of one segment of the path.
type segment struct {
	text string // where part is 0
	part int    // the span that the segment becomes
	rest bool   // it and all that follow
}

// piece is text, or the part of the path whose span it names.
type piece struct {
	text string
	part int // -1 for text
}

// charge takes what a match on the path costs off the budget. It returns an error when the path has too few steps left for
// it, or when the call was abandoned.
func (u *rule) charge(path []byte, budget *policies.PatternBudget) error {
	if u.regex == nil {
		return nil
	}
	// Fast path: whatever is in the path, there are steps enough.
	if cost := u.counted.Cost(len(path)); cost <= budget.Left() {
		return budget.Charge(cost)
	}
	_, err := u.counted.Match(view.String(path), budget)
	return err
}

// match finds the parts of the path. charge comes before it.
func (u *rule) match(path []byte, found *spans) bool {
	switch {
	case u.regex != nil:
		return u.matchRegex(path, found)
	case u.segments != nil:
		return u.matchSegments(path, found)
	}
	if len(path) < len(u.prefix) || string(path[:len(u.prefix)]) != u.prefix {
		return false
	}
	found[0] = [2]int{len(u.prefix), len(path)}
	return len(path) == len(u.prefix) || path[len(u.prefix)] == '/'
}

func (u *rule) matchRegex(path []byte, found *spans) bool {
	at := u.regex.FindSubmatchIndex(path)
	for i := 0; i+1 < len(at); i += 2 {
		if at[i] >= 0 { // A group that took no part is empty.
			found[i/2] = [2]int{at[i], at[i+1]}
		}
	}
	return at != nil
}

func (u *rule) matchSegments(path []byte, found *spans) bool {
	begin := 1 // A safe path begins with a slash.
	for i := range u.segments {
		s := &u.segments[i]
		if s.rest {
			found[s.part] = [2]int{begin, len(path)}
			return true
		}
		end := len(path)
		if n := bytes.IndexByte(path[begin:], '/'); n >= 0 {
			end = begin + n
		}
		switch {
		case s.part > 0 && begin == end:
			return false
		case s.part > 0:
			found[s.part] = [2]int{begin, end}
		case string(path[begin:end]) != s.text:
			return false
		}
		if i == len(u.segments)-1 {
			return end == len(path)
		}
		if end == len(path) {
			return false
		}
		begin = end + 1
	}
	return false
}

// cut returns the end of the target that is the result, where it is one: a prefix that is taken off.
func (u *rule) cut(target []byte) ([]byte, bool) {
	if u.segments != nil || u.regex != nil || len(u.to) != 1 {
		return nil, false
	}
	rest := target[len(u.prefix):]
	return rest, len(rest) > 0 && rest[0] == '/'
}

// size is the length of what append appends, at most one more.
func (u *rule) size(found *spans) int {
	n := 1
	for i := range u.to {
		if p := &u.to[i]; p.part < 0 {
			n += len(p.text)
		} else {
			n += found[p.part][1] - found[p.part][0]
		}
	}
	return n
}

// append appends the new path.
func (u *rule) append(dst, path []byte, found *spans) []byte {
	for i := range u.to {
		if p := &u.to[i]; p.part < 0 {
			dst = append(dst, p.text...)
		} else {
			dst = append(dst, path[found[p.part][0]:found[p.part][1]]...)
		}
	}
	if len(dst) == 0 {
		dst = append(dst, '/') // All of it was the prefix.
	}
	return dst
}
