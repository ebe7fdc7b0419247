package jsonschemavalidation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/policy-engine/policy-engine/policies"
)

// maxKept is how many checkers are kept for later bodies.
const maxKept = 32

// errTooLong is the error of a check that has used up its steps.
var errTooLong = errors.New("the schema takes too many steps on it")

// limits are what the check of a body may cost.
type limits struct {
	steps        int
	patternSteps int64
	depth        int // of the body
}

// at returns the limits for a body of that depth.
func (l limits) at(depth int) limits {
	l.depth = depth
	return l
}

// within returns the smaller of both limits.
func (l limits) within(other limits) limits {
	l.steps, l.patternSteps = min(l.steps, other.steps), min(l.patternSteps, other.patternSteps)
	return l
}

// exhausted reports whether a check ended because it took too many steps.
func exhausted(invalid error) bool {
	return errors.Is(invalid, errTooLong) || errors.Is(invalid, policies.ErrPatternBudget)
}

// stop is the panic that ends a check: the library has no other way out.
type stop struct{ err error }

// askEvery is after how many steps a check asks whether the call has been abandoned.
const askEvery = 1 << 10

// checker is a compiled schema that counts its steps, see guard. It checks one body at a time.
type checker struct {
	schema   *jsonschema.Schema
	place    int // steps for a place in the body, which errors have
	ctx      context.Context
	left     int
	ask      int // below this, or 0, the check asks whether it may go on
	patterns *policies.PatternBudget
}

// charge takes steps off, or ends the check.
func (c *checker) charge(steps int) {
	if c.left -= steps; c.left >= c.ask {
		return
	}
	if c.left < 0 {
		panic(stop{errTooLong})
	}
	if err := c.ctx.Err(); err != nil {
		panic(stop{err})
	}
	c.ask = max(c.left-askEvery, 0)
}

// check returns what is wrong with the value. errTooLong, policies.ErrPatternBudget and the error of the context mean
// that nobody knows.
func (c *checker) check(ctx context.Context, value any, most limits) (err error) {
	c.place = most.depth / levelsPerStep
	c.ctx, c.left, c.ask, c.patterns = ctx, most.steps, most.steps, policies.NewPatternBudget(ctx, most.patternSteps)
	defer func() {
		p := recover()
		if s, ok := p.(stop); ok {
			err = s.err
		} else if p != nil {
			panic(p)
		}
	}()
	return c.schema.Validate(value)
}

// matchOverhead is what a match costs beside the steps of the pattern.
const matchOverhead = 16

// countedPattern is a pattern that is matched at the expense of the body that the checker checks.
type countedPattern struct {
	*policies.Pattern
	c *checker
}

// MatchString implements jsonschema.Regexp.
func (p *countedPattern) MatchString(text string) bool {
	err := p.c.patterns.Charge(matchOverhead)
	if err == nil {
		var found bool
		if found, err = p.Match(text, p.c.patterns); err == nil {
			return found
		}
	}
	panic(stop{err})
}

// checkers makes checkers of one schema and keeps them.
type checkers struct {
	raw     json.RawMessage
	formats bool
	free    chan *checker

	mu       sync.Mutex
	patterns map[string]*policies.Pattern // by expression; shared by all checkers
}

// newCheckers makes the first one, or says what is wrong with the schema.
func newCheckers(raw json.RawMessage, formats bool) (*checkers, error) {
	s := &checkers{raw: raw, formats: formats, free: make(chan *checker, maxKept), patterns: map[string]*policies.Pattern{}}
	c, err := s.compile()
	if err != nil {
		return nil, err
	}
	s.free <- c
	return s, nil
}

// pattern compiles an expression of the schema, once.
func (s *checkers) pattern(expression string) (*policies.Pattern, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.patterns[expression]; p != nil {
		return p, nil
	}
	p, err := compilePattern(expression)
	if err == nil {
		s.patterns[expression] = p
	}
	return p, err
}

// check is that of a checker that is free. The second error means that there is no answer.
func (s *checkers) check(ctx context.Context, value any, most limits) (invalid, failed error) {
	var c *checker
	select {
	case c = <-s.free:
	default:
		var err error
		if c, err = s.compile(); err != nil {
			return nil, fmt.Errorf("compile schema: %w", err)
		}
	}
	invalid = c.check(ctx, value, most)
	c.ctx, c.patterns = nil, nil
	select {
	case s.free <- c:
	default:
	}
	var misfit *jsonschema.ValidationError
	switch {
	case invalid == nil, exhausted(invalid), errors.As(invalid, &misfit):
		return invalid, nil
	}
	return nil, fmt.Errorf("check body: %w", invalid) // The call was abandoned.
}
