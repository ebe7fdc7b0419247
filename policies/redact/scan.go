package redact

import (
	"context"
	"unicode/utf8"

	"github.com/policy-engine/policy-engine/policies"
)

// region is a stretch of the bytes that is part of a match, or of several that overlap: [from, to). from is -1 if it began in bytes that have been sent.
type region struct{ from, to int }

// thread is a match that has begun: its automaton is in the state, and its first byte is at start.
type thread struct {
	state uint16
	start int
}

// scanner runs a program over the bytes of a chunk. It is used again for the next, of whatever body.
type scanner struct {
	p *program
	// cur are the matches that have begun, by their start. Of those in one state, only the first is kept: whatever follows, all end together.
	cur, next []thread
	seen      []uint32 // by state: the step at which it was last reached
	step      uint32
	regions   []region
	after     place // from where on the bytes have to be seen again, where the surroundings matter
	steps     int64 // that are not charged yet
	budget    policies.PatternBudget
}

const (
	// window is how many bytes of a body share a budget of steps.
	window = 64 << 10
	// chargedSteps is how many steps are charged at once.
	chargedSteps = 1 << 15
)

func newScanner(p *program) *scanner { return &scanner{p: p, seen: make([]uint32, len(p.states))} }

// scan finds the regions of b, which is all that it does to s.regions: the union of all matches, of every expression at
// every place. at says what comes before b. It returns from where on b has to
// be seen again, with what follows: len(b) if no match has begun. What is before that is decided. Each window of b has a
// budget of steps, one for each state that is reached. An error is policies.ErrPatternBudget, or that of ctx.
func (s *scanner) scan(ctx context.Context, b []byte, at place, last bool) (keep int, err error) {
	s.cur, s.regions = s.cur[:0], s.regions[:0]
	if at.front > 0 {
		s.regions = append(s.regions, region{-1, at.front})
	}
	s.after = place{}
	if s.p.contextual {
		return s.scanInContext(ctx, b, at, last)
	}
	s.steps, s.budget = 0, *policies.NewPatternBudget(ctx, s.p.steps)
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
		if len(s.cur) == 0 {
			// Fast path: most bytes begin nothing.
			for i < len(b) && !s.p.mayBegin(b[i:]) {
				i++
			}
			if i == len(b) {
				break
			}
		}
		r, width := rune(b[i]), 1
		if r >= utf8.RuneSelf {
			if !last && !utf8.FullRune(b[i:]) {
				break
			}
			r, width = utf8.DecodeRune(b[i:]) // What is no UTF-8 is U+FFFD, byte by byte, as to package regexp.
		}
		s.advance(r, i, i+width)
		i += width
	}
	if last {
		return len(b), nil
	}
	if len(s.cur) > 0 {
		return s.cur[0].start, nil
	}
	return i, nil
}

// advance takes the rune at [at, end).
func (s *scanner) advance(r rune, at, end int) {
	if s.step++; s.step == 0 { // It has wrapped around.
		clear(s.seen)
		s.step = 1
	}
	s.next = s.next[:0]
	s.steps += int64(len(s.cur)) + 1
	match := -1
	for _, t := range s.cur {
		if q := &s.p.states[t.state]; q.takes(r) {
			if q.accepts && match < 0 {
				match = t.start
			}
			s.reach(q, t.start)
		}
	}
	starts := s.p.starts
	if r < utf8.RuneSelf {
		starts = s.p.startsAt[r]
	}
	for _, i := range starts {
		if q := &s.p.states[i]; r < utf8.RuneSelf || q.takes(r) {
			if q.accepts && match < 0 {
				match = at
			}
			s.reach(q, at)
		}
	}
	s.cur, s.next = s.next, s.cur
	if match >= 0 {
		s.add(match, end)
	}
}

func (s *scanner) reach(q *state, start int) {
	s.steps += int64(len(q.next))
	for _, n := range q.next {
		if s.seen[n] != s.step {
			s.seen[n] = s.step
			s.next = append(s.next, thread{n, start})
		}
	}
}

// add adds a match to the regions; those that it overlaps become one with it. Matches come by their end.
func (s *scanner) add(from, to int) {
	for n := len(s.regions); n > 0 && from < s.regions[n-1].to; n = len(s.regions) {
		from = min(from, s.regions[n-1].from)
		to = max(to, s.regions[n-1].to)
		s.regions = s.regions[:n-1]
	}
	s.regions = append(s.regions, region{from, to})
}

// decided appends what goes on in place of b[:keep] to dst, and returns with it how many of the bytes from keep on are of a region whose replacement is in
// dst, or went on before, and how many regions were replaced.
func (s *scanner) decided(dst, b []byte, keep int, replacement string) (out []byte, front, replaced int) {
	at := 0
	for _, g := range s.regions {
		if g.from >= keep {
			break // It is found again.
		}
		if g.from >= 0 {
			dst = append(append(dst, b[at:g.from]...), replacement...)
			replaced++
		}
		at = min(g.to, keep)
		front = g.to - at
	}
	return append(dst, b[at:keep]...), front, replaced
}
