package redact

import (
	"context"
	"unicode/utf8"

	"github.com/policy-engine/policy-engine/policies"
)

// place is what is known of the bytes before a place in a body.
type place struct {
	front  int // so many bytes after it are of a region whose replacement went on
	before neighbor
	// json: only strings of JSON are looked at. inString and escaped are where in it the place is.
	json, inString, escaped bool
}

// neighbor is what a character next to a match is: bits.
type neighbor uint8

const (
	digit neighbor = 1 << iota
	word
)

func neighborOf(r rune) neighbor {
	switch {
	case '0' <= r && r <= '9':
		return digit | word
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', r == '_':
		return word
	}
	return 0
}

// borders reports whether a match may stand next to such a character.
func (b border) borders(n neighbor) bool {
	return b == borderNone || b == borderDigit && n&digit == 0 || b == borderWord && n&word == 0
}

// scanInContext is scan where it matters what surrounds a match. The end of a match is known when the next character is,
// so until then it counts as one that has begun.
func (s *scanner) scanInContext(ctx context.Context, b []byte, at place, last bool) (keep int, err error) {
	s.steps, s.budget = 0, *policies.NewPatternBudget(ctx, s.p.steps)
	first := at
	at.front = 0
	i, renewed := 0, window
	for i < len(b) {
		if i >= renewed {
			s.steps, s.budget, renewed = 0, *policies.NewPatternBudget(ctx, s.p.steps), i+window
		}
		if s.steps > chargedSteps {
			if err := s.budget.Charge(s.steps); err != nil {
				return 0, err
			}
			s.steps = 0
		}
		// Fast path: most bytes begin nothing.
		if c := b[i]; len(s.cur) == 0 && (at.json && !at.inString || !s.p.mayBegin(b[i:])) {
			at.take(rune(c))
			i++
			continue
		}
		r, width := rune(b[i]), 1
		if r >= utf8.RuneSelf {
			if !last && !utf8.FullRune(b[i:]) {
				break
			}
			r, width = utf8.DecodeRune(b[i:])
		}
		if at.json && r == '"' && !at.escaped { // The string ends, and all matches with it.
			s.endInContext(i, at.before)
			s.cur = s.cur[:0]
		} else {
			s.advanceInContext(r, i, at.before)
		}
		at.take(r)
		i += width
	}
	if last {
		s.endInContext(len(b), at.before)
		return len(b), nil
	}
	keep = i
	if len(s.cur) > 0 {
		keep = s.cur[0].start
	}
	s.after = at
	if keep < i { // A match begins there, so it is in a string.
		s.after = first.in(b, keep)
	}
	return keep, nil
}

// take goes on to the place after a character.
func (p *place) take(r rune) {
	switch {
	case !p.json:
	case p.escaped:
		p.escaped = false
	case r == '"':
		p.inString = !p.inString
	case r == '\\':
		p.escaped = p.inString
	}
	p.before = neighborOf(r)
}

// in returns the place at b[n:], where b is at p. In JSON, it is in a string.
func (p place) in(b []byte, n int) place {
	if n == 0 {
		return p
	}
	slashes := 0
	for slashes < n && b[n-1-slashes] == '\\' {
		slashes++
	}
	if slashes == n && p.escaped {
		slashes-- // The first of them is escaped.
	}
	return place{before: neighborOf(rune(b[n-1])), json: p.json, inString: p.json, escaped: p.json && slashes%2 == 1}
}

// advanceInContext takes the rune at b[at:].
func (s *scanner) advanceInContext(r rune, at int, before neighbor) {
	if s.step++; s.step == 0 { // It has wrapped around.
		clear(s.seen)
		s.step = 1
	}
	after := neighborOf(r)
	in := contextOf(before, after)
	s.next = s.next[:0]
	match := -1
	for _, t := range s.cur {
		q := &s.p.states[t.state]
		if match < 0 && q.acceptsIn&(1<<in) != 0 && s.p.border.borders(after) {
			match = t.start
		}
		s.enter(q.nextIn[in], r, t.start)
	}
	if s.p.border.borders(before) {
		s.enter(s.p.startsIn[in], r, at)
	}
	s.cur, s.next = s.next, s.cur
	if match >= 0 {
		s.add(match, at)
	}
}

// endInContext is at the end of the text.
func (s *scanner) endInContext(at int, before neighbor) {
	in := contextOf(before, 0)
	for _, t := range s.cur {
		if s.p.states[t.state].acceptsIn&(1<<in) != 0 {
			s.add(t.start, at)
			return
		}
	}
}

func contextOf(before, after neighbor) (c surroundings) {
	if before&word != 0 {
		c |= wordBefore
	}
	if after&word != 0 {
		c |= wordAfter
	}
	return c
}

// enter goes on to those of the states that take the rune.
func (s *scanner) enter(states []uint16, r rune, start int) {
	s.steps += int64(len(states)) + 1
	for _, n := range states {
		if s.seen[n] != s.step && s.p.states[n].takes(r) {
			s.seen[n] = s.step
			s.next = append(s.next, thread{n, start})
		}
	}
}
