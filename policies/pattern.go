package policies

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"regexp/syntax"
	"slices"
	"sync"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxPatternSize is the largest program that a pattern may compile to, in instructions. A bounded repetition counts
	// as often as it may repeat: [a-z]{1,1000} takes about 2,000.
	MaxPatternSize = 10_000
	// DefaultPatternSteps is the default budget of a message for patterns, in steps. A step takes 2 to 4 ns, so a
	// message that uses up its budget costs less than 10 ms.
	DefaultPatternSteps = 2_000_000
	// MaxPatternSteps is the largest budget that an operator should be able to configure: a few seconds.
	MaxPatternSteps = 1_000_000_000
	// ReasonPatternBudget is the reason with which a policy refuses a message that has used up its budget: 413 for a
	// request, 502 for a response.
	ReasonPatternBudget = "pattern_budget"
)

// ErrPatternBudget is the error of a match that needs more steps than the message has left.
var ErrPatternBudget = errors.New("the patterns take too many steps on it")

// PatternBudget bounds what the patterns of a policy may cost on one message. The unit is the step: an instruction of a
// compiled pattern that is visited at a character of the text. The worst case of a pattern is therefore
// text length × program size; what a match really visits is what it is charged.
//
// A budget is of one message, and not safe for concurrent use. A policy that gets ErrPatternBudget refuses the message
// (ReasonPatternBudget) and never lets it pass: what was not looked at is not known to be harmless.
type PatternBudget struct {
	ctx  context.Context
	left int64
	ask  int64 // below this, or 0, a match asks whether it may go on
}

// NewPatternBudget returns a budget of that many steps. Matches end with the error of ctx once it is over, so that a
// call that was abandoned does no more work.
func NewPatternBudget(ctx context.Context, steps int64) *PatternBudget {
	return &PatternBudget{ctx: ctx, left: steps, ask: steps}
}

// Left returns the number of steps that are left. It is negative after ErrPatternBudget.
func (b *PatternBudget) Left() int64 { return b.left }

// Charge takes steps off the budget, for work that is not that of Pattern.Match: a policy with an automaton of its own
// charges what it is about to do, or does in pieces. It returns ErrPatternBudget if there are not so many left, and the
// error of the context if the call has been abandoned.
func (b *PatternBudget) Charge(steps int64) error {
	if b.left -= steps; b.left < 0 {
		b.left = -1 // Smaller work does not fit later either.
		return ErrPatternBudget
	}
	return b.ctx.Err()
}

// Pattern is a regular expression (RE2) whose matches are counted. It answers whether a text has a match, not where.
// It is safe for concurrent use, and keeps nothing of the texts.
type Pattern struct {
	text  string
	insts []patternInst
	start uint32
	// anchored: a match begins at the beginning of the text or nowhere.
	anchored bool
	// skips: a match needs a character, and begins with no ASCII character of idle.
	skips bool
	idle  asciiSet
	// loops: what a character leads to does not depend on the one before it.
	loops bool
	cost  int64     // steps for a byte in the worst case
	free  sync.Pool // of *patternMachine
}

// patternInst is an instruction. Those that take a character have the set of what they take.
type patternInst struct {
	op       syntax.InstOp
	out, arg uint32
	ascii    asciiSet
	ranges   []rune // pairs of the first and the last character, in order, of what is not ASCII
	weight   int64  // the steps that a search of ranges takes
}

// asciiSet has a bit for each ASCII character.
type asciiSet [2]uint64

func (s *asciiSet) has(r rune) bool { return s[r>>6]&(1<<(r&63)) != 0 }

func (s *asciiSet) add(r rune) { s[r>>6] |= 1 << (r & 63) }

// CompilePattern compiles a regular expression in the syntax of package regexp. The error says what is wrong with the
// expression, also where its program is larger than MaxPatternSize.
func CompilePattern(expression string) (*Pattern, error) {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, err
	}
	if n := len(program.Inst); n > MaxPatternSize {
		return nil, fmt.Errorf("its program has %d instructions, must be at most %d; use smaller bounds in repetitions such as {1,100}",
			n, MaxPatternSize)
	}
	p := &Pattern{
		text:     expression,
		insts:    make([]patternInst, len(program.Inst)),
		start:    uint32(program.Start),
		anchored: program.StartCond()&syntax.EmptyBeginText != 0,
		loops:    true,
	}
	for i := range program.Inst {
		p.insts[i] = newPatternInst(&program.Inst[i])
		p.cost += stepsPerInst + p.insts[i].weight
		if inst := &p.insts[i]; inst.op == syntax.InstEmptyWidth && syntax.EmptyOp(inst.arg)&^(syntax.EmptyBeginText|syntax.EmptyEndText) != 0 {
			p.loops = false
		}
	}
	p.free.New = func() any { return &patternMachine{seen: make([]uint32, len(p.insts))} }
	p.findIdle()
	return p, nil
}

func newPatternInst(inst *syntax.Inst) patternInst {
	made := patternInst{op: inst.Op, out: inst.Out, arg: inst.Arg}
	var ranges []rune
	switch inst.Op {
	case syntax.InstRune1:
		ranges = []rune{inst.Rune[0], inst.Rune[0]}
	case syntax.InstRune:
		if ranges = inst.Rune; len(ranges) == 1 {
			ranges = foldRanges(ranges[0], syntax.Flags(inst.Arg)&syntax.FoldCase != 0)
		}
	case syntax.InstRuneAny:
		ranges = []rune{0, unicode.MaxRune}
	case syntax.InstRuneAnyNotNL:
		ranges = []rune{0, '\n' - 1, '\n' + 1, unicode.MaxRune}
	default:
		return made
	}
	made.op = syntax.InstRune
	for i := 0; i < len(ranges); i += 2 {
		for r := ranges[i]; r <= min(ranges[i+1], unicode.MaxASCII); r++ {
			made.ascii.add(r)
		}
		if ranges[i+1] > unicode.MaxASCII {
			made.ranges = append(made.ranges, max(ranges[i], unicode.MaxASCII+1), ranges[i+1])
		}
	}
	made.weight = int64(bits.Len(uint(len(made.ranges) / 2)))
	return made
}

// foldRanges returns the ranges of a character, and of those that are the same but for their case, in order.
func foldRanges(r rune, fold bool) []rune {
	ranges := []rune{r, r}
	if !fold {
		return ranges
	}
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		i := 0
		for i < len(ranges) && ranges[i] < f {
			i += 2
		}
		ranges = append(ranges[:i], append([]rune{f, f}, ranges[i:]...)...)
	}
	return ranges
}

// takes reports whether the instruction takes the character.
func (i *patternInst) takes(r rune) bool {
	if r < utf8.RuneSelf {
		return i.ascii.has(r)
	}
	low, high := 0, len(i.ranges)/2
	for low < high {
		middle := (low + high) / 2
		switch {
		case r < i.ranges[2*middle]:
			high = middle
		case r > i.ranges[2*middle+1]:
			low = middle + 1
		default:
			return true
		}
	}
	return false
}

// findIdle finds what a match may not begin with, unless that depends on what surrounds it.
func (p *Pattern) findIdle() {
	idle := asciiSet{math.MaxUint64, math.MaxUint64}
	seen, todo := make([]bool, len(p.insts)), []uint32{p.start}
	for len(todo) > 0 {
		pc := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[pc] {
			continue
		}
		seen[pc] = true
		switch inst := &p.insts[pc]; inst.op {
		case syntax.InstAlt, syntax.InstAltMatch:
			todo = append(todo, inst.out, inst.arg)
		case syntax.InstCapture, syntax.InstNop:
			todo = append(todo, inst.out)
		case syntax.InstRune:
			idle[0] &^= inst.ascii[0]
			idle[1] &^= inst.ascii[1]
		case syntax.InstMatch, syntax.InstEmptyWidth:
			return
		}
	}
	p.skips, p.idle = true, idle
}

// String returns the expression.
func (p *Pattern) String() string { return p.text }

// Size returns the number of instructions of the program, at most MaxPatternSize.
func (p *Pattern) Size() int { return len(p.insts) }

// Cost returns the number of steps that a match on a text of that many bytes takes in the worst case. A policy that
// runs package regexp, for the places of groups, charges it before.
func (p *Pattern) Cost(length int) int64 { return int64(length+1) * p.cost }

// stepsPerInst is how often an instruction can come up at one character: once by each of those that lead to it is
// less than three times on average, because an instruction leads to two others at most.
const stepsPerInst = 3

// patternMachine is the memory of a match.
type patternMachine struct {
	now, next []uint32 // instructions at this character and at the next one
	seen      []uint32 // by instruction: the place at which it was last visited
	at        uint32   // the place
	same      [maxSame]uint32
}

const (
	// abandonedEvery is after how many steps a match asks whether the call has been abandoned.
	abandonedEvery = 1 << 16
	// maxSame is the largest number of instructions of which a match notices that a character leads back to them.
	maxSame = 16
)

// Match reports whether the text has a match. It charges each step before it takes it. An error means that there is no
// answer: ErrPatternBudget, or that of the context.
func (p *Pattern) Match(text string, b *PatternBudget) (bool, error) {
	if err := b.Charge(0); err != nil {
		return false, err
	}
	m := p.free.Get().(*patternMachine)
	defer p.free.Put(m)
	m.now, m.next = m.now[:0], m.next[:0]
	var loops asciiSet // ASCII characters that lead from the instructions in m.now back to the same ones
	before := rune(-1)
	for at := 0; ; {
		if len(m.now) == 0 && at > 0 && p.anchored {
			return false, nil
		}
		passed := &loops
		if len(m.now) == 0 && p.skips {
			passed = &p.idle
		}
		if n := passed.prefix(text[at:min(int64(len(text)), int64(at)+b.left)]); n > 0 {
			at, before = at+n, rune(text[at+n-1])
			if err := b.Charge(int64(n)); err != nil {
				return false, err
			}
		}
		short, same := len(m.now) <= maxSame, m.same[:copy(m.same[:], m.now)]
		if at == 0 || !p.anchored {
			m.now = append(m.now, p.start)
		}
		r, width := rune(-1), 0
		if at < len(text) {
			if r, width = rune(text[at]), 1; r >= utf8.RuneSelf {
				r, width = utf8.DecodeRuneInString(text[at:])
			}
		}
		matched, err := p.step(m, before, r, b)
		if matched || err != nil || r < 0 {
			return matched, err
		}
		switch {
		case !short || !slices.Equal(m.next, same):
			loops = asciiSet{}
		case p.loops && at > 0 && r < utf8.RuneSelf:
			loops.add(r)
		}
		at, before = at+width, r
		m.now, m.next = m.next, m.now[:0]
	}
}

// prefix returns how many characters at the beginning of the text are of the set.
func (s *asciiSet) prefix(text string) int {
	for i := range len(text) {
		if c := rune(text[i]); c >= utf8.RuneSelf || !s.has(c) {
			return i
		}
	}
	return len(text)
}

// step visits the instructions at the place between two characters, -1 for none, and fills m.next with those that
// follow the second one. It reports whether one of them is the end of a match.
func (p *Pattern) step(m *patternMachine, before, r rune, b *PatternBudget) (matched bool, err error) {
	if m.at++; m.at == 0 { // It has wrapped around.
		clear(m.seen)
		m.at = 1
	}
	todo, left := m.now, b.left
	for len(todo) > 0 && !matched {
		pc := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if left--; left < b.ask {
			if b.left = left; left < 0 {
				return false, ErrPatternBudget
			}
			if err := b.ctx.Err(); err != nil {
				return false, err
			}
			b.ask = max(left-abandonedEvery, 0)
		}
		if m.seen[pc] == m.at {
			continue
		}
		m.seen[pc] = m.at
		switch inst := &p.insts[pc]; inst.op {
		case syntax.InstAlt, syntax.InstAltMatch:
			todo = append(todo, inst.out, inst.arg)
		case syntax.InstCapture, syntax.InstNop:
			todo = append(todo, inst.out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(inst.arg)&^syntax.EmptyOpContext(before, r) == 0 {
				todo = append(todo, inst.out)
			}
		case syntax.InstRune:
			if r >= utf8.RuneSelf {
				left -= inst.weight
			}
			if r >= 0 && inst.takes(r) {
				m.next = append(m.next, inst.out)
			}
		case syntax.InstMatch:
			matched = true
		}
	}
	m.now, b.left = todo, left // The memory stays.
	if left < 0 {              // The last step was a search of ranges.
		return false, ErrPatternBudget
	}
	return matched, nil
}
