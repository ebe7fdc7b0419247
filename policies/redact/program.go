package redact

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"unicode"
	"unicode/utf8"
)

const (
	// maxMatch bounds a match, in bytes: a match that has begun is held back, and what is held back counts against the worker's limit for state.
	maxMatch = 4096
	// maxStates bounds the automaton. In the worst case each rune costs a step of each state.
	maxStates = 1 << 13
	// maxTransitions bounds the memory of the automaton: in the worst case each state leads to each other.
	maxTransitions = 1 << 20
)

// program is all literals and patterns as one nondeterministic automaton over runes, without empty transitions.
type program struct {
	states []state
	steps  int64 // the budget of each window of a body
	// contextual: what surrounds a match matters, because of \b, \B, border or json_strings. Then the tables below say what is possible at
	// all, and startsIn and the states say what is in each context.
	contextual bool
	border     border
	startsIn   [numContexts][]uint16
	// starts has the states in which a match may begin, startsAt those of them that take an ASCII character.
	starts   []uint16
	startsAt [utf8.RuneSelf][]uint16
	// begins tells whether a match may begin with the byte, follows whether it may with the byte and the one after it: a bit for each second byte.
	begins  [256]bool
	follows [256][4]uint64
}

// mayBegin reports whether a match may begin with the first byte of b, which is not empty.
func (p *program) mayBegin(b []byte) bool {
	if !p.begins[b[0]] {
		return false
	}
	return len(b) == 1 || p.follows[b[0]][b[1]>>6]&(1<<(b[1]&63)) != 0
}

// state takes one rune.
type state struct {
	ascii [2]uint64 // a bit for each ASCII character that it takes
	inst  *syntax.Inst
	next  []uint16
	// accepts: a match ends with the rune.
	accepts bool
	// nextIn and acceptsIn are the same by context, the one after the rune. acceptsIn has a bit for each.
	nextIn    [numContexts][]uint16
	acceptsIn uint8
}

func (s *state) takes(r rune) bool {
	if r < utf8.RuneSelf {
		return s.ascii[r>>6]&(1<<(r&63)) != 0
	}
	return s.inst.MatchRune(r)
}

// compile makes a program that finds what any of the expressions matches; bound has checked each.
func compile(expressions []*syntax.Regexp, steps int64, around border, inStrings bool) (*program, error) {
	all := &syntax.Regexp{Op: syntax.OpAlternate, Sub: expressions}
	if len(expressions) == 1 {
		all = expressions[0]
	}
	compiled, err := syntax.Compile(all.Simplify())
	if err != nil {
		return nil, err
	}
	p, index := &program{steps: steps}, make(map[uint32]uint16)
	for pc := range compiled.Inst {
		if inst := &compiled.Inst[pc]; consumes(inst) {
			if len(p.states) == maxStates {
				return nil, fmt.Errorf("literals and patterns are too many or too long together; legal are such with %d states of their automaton, which are about as many as characters", maxStates)
			}
			index[uint32(pc)] = uint16(len(p.states))
			p.states = append(p.states, state{inst: inst, ascii: asciiOf(inst)})
		}
	}
	p.border, p.contextual = around, inStrings || around != borderNone || looksAround(compiled)
	transitions := 0
	for i := range p.states {
		s := &p.states[i]
		s.next, s.accepts = closure(compiled, index, s.inst.Out, anyContext)
		for c := surroundings(0); p.contextual && c < numContexts; c++ {
			var accepts bool
			if s.nextIn[c], accepts = closure(compiled, index, s.inst.Out, c); accepts {
				s.acceptsIn |= 1 << c
			}
			transitions += len(s.nextIn[c])
		}
		if transitions += len(s.next); transitions > maxTransitions {
			return nil, fmt.Errorf("the automaton has more than %d transitions; use fewer optional parts inside of repetitions, such as (a?){500}", maxTransitions)
		}
	}
	p.starts, _ = closure(compiled, index, uint32(compiled.Start), anyContext)
	for c := surroundings(0); p.contextual && c < numContexts; c++ {
		p.startsIn[c], _ = closure(compiled, index, uint32(compiled.Start), c)
	}
	p.fillBegins()
	return p, nil
}

// surroundings is whether the characters before and after a place are of words: bits wordBefore and wordAfter.
type surroundings uint8

const (
	wordBefore surroundings = 1 << iota
	wordAfter
	numContexts
	// anyContext stands for all of them.
	anyContext = numContexts
)

// holds reports whether an empty-width instruction is true in the context. The parameters let no others through than these.
func (c surroundings) holds(op syntax.EmptyOp) bool {
	boundary := c == wordBefore || c == wordAfter
	return c == anyContext || boundary && op == syntax.EmptyWordBoundary || !boundary && op == syntax.EmptyNoWordBoundary
}

func looksAround(compiled *syntax.Prog) bool {
	for i := range compiled.Inst {
		if compiled.Inst[i].Op == syntax.InstEmptyWidth {
			return true
		}
	}
	return false
}

// border is what may not stand next to a match.
type border uint8

const (
	borderNone border = iota
	borderDigit
	borderWord
)

// fillBegins fills the tables of what a match may begin with.
func (p *program) fillBegins() {
	for _, i := range p.starts {
		for c := range p.startsAt {
			if q := &p.states[i]; q.takes(rune(c)) {
				p.startsAt[c] = append(p.startsAt[c], i)
				p.begins[c] = true
				p.fillFollows(&p.follows[c], q)
			}
		}
	}
	for c := utf8.RuneSelf; c < len(p.begins); c++ { // Which runes these are has to be looked at.
		p.begins[c], p.follows[c] = true, [4]uint64{all, all, all, all}
	}
}

const all = 1<<64 - 1

// fillFollows adds to set what may follow the rune that the state takes.
func (p *program) fillFollows(set *[4]uint64, s *state) {
	set[2], set[3] = all, all
	if s.accepts {
		set[0], set[1] = all, all
	}
	for _, n := range s.next {
		set[0] |= p.states[n].ascii[0]
		set[1] |= p.states[n].ascii[1]
	}
}

func consumes(inst *syntax.Inst) bool {
	switch inst.Op {
	case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
		return true
	}
	return false
}

func asciiOf(inst *syntax.Inst) (set [2]uint64) {
	for r := rune(0); r < utf8.RuneSelf; r++ {
		if inst.MatchRune(r) {
			set[r>>6] |= 1 << (r & 63)
		}
	}
	return set
}

// closure returns the states that are reached from pc in a context without taking a rune, and whether the end of a match is.
func closure(compiled *syntax.Prog, index map[uint32]uint16, pc uint32, in surroundings) (states []uint16, accepts bool) {
	seen, todo := map[uint32]bool{}, []uint32{pc}
	for len(todo) > 0 {
		pc, todo = todo[len(todo)-1], todo[:len(todo)-1]
		if seen[pc] {
			continue
		}
		seen[pc] = true
		switch inst := &compiled.Inst[pc]; inst.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			todo = append(todo, inst.Arg, inst.Out)
		case syntax.InstCapture, syntax.InstNop:
			todo = append(todo, inst.Out)
		case syntax.InstEmptyWidth:
			if in.holds(syntax.EmptyOp(inst.Arg)) {
				todo = append(todo, inst.Out)
			}
		case syntax.InstMatch:
			accepts = true
		case syntax.InstFail:
		default:
			states = append(states, index[pc])
		}
	}
	return states, accepts
}

var errNoMatch = errors.New("it matches nothing")

// bound returns how long, in bytes, a match of the expression is at least and at most, or why there is no telling.
func bound(re *syntax.Regexp) (least, most int, err error) {
	switch re.Op {
	case syntax.OpNoMatch:
		return 0, 0, errNoMatch
	case syntax.OpEmptyMatch, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return 0, 0, nil
	case syntax.OpLiteral:
		for _, r := range re.Rune {
			short, long := runeBounds(r, re.Flags&syntax.FoldCase != 0)
			least, most = least+short, most+long
		}
		return least, most, nil
	case syntax.OpCharClass:
		if len(re.Rune) == 0 {
			return 0, 0, errNoMatch
		}
		return 1, runeLen(re.Rune[len(re.Rune)-1]), nil
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1, utf8.UTFMax, nil
	case syntax.OpStar, syntax.OpPlus:
		return 0, 0, fmt.Errorf("its matches have no greatest length (%v); legal are bounded repetitions, such as [a-z]{1,64}", re)
	case syntax.OpQuest, syntax.OpRepeat, syntax.OpCapture:
		return boundRepeated(re)
	case syntax.OpConcat, syntax.OpAlternate:
		return boundSeveral(re)
	}
	return 0, 0, fmt.Errorf("it looks for the beginning or end of a text or line (%v), which is not supported; use \\b, or border", re)
}

func boundRepeated(re *syntax.Regexp) (least, most int, err error) {
	least, most, err = bound(re.Sub[0])
	switch {
	case err != nil || re.Op == syntax.OpCapture:
		return least, most, err
	case re.Op == syntax.OpQuest:
		return 0, most, nil
	case re.Max < 0:
		return 0, 0, fmt.Errorf("its matches have no greatest length (%v); legal are bounded repetitions, such as [a-z]{1,64}", re)
	}
	return saturate(least * re.Min), saturate(most * re.Max), nil
}

func boundSeveral(re *syntax.Regexp) (least, most int, err error) {
	for i, sub := range re.Sub {
		short, long, err := bound(sub)
		switch {
		case err != nil:
			return 0, 0, err
		case re.Op == syntax.OpConcat:
			least, most = saturate(least+short), saturate(most+long)
		case i == 0:
			least, most = short, long
		default:
			least, most = min(least, short), max(most, long)
		}
	}
	return least, most, nil
}

// saturate keeps products from overflowing: the parser allows repetitions up to 1000.
func saturate(n int) int { return min(n, 1<<20) }

// runeBounds are the lengths of a rune, and of those that are the same but for their case.
func runeBounds(r rune, fold bool) (short, long int) {
	short, long = runeLen(r), runeLen(r)
	if !fold {
		return short, long
	}
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		short, long = min(short, runeLen(f)), max(long, runeLen(f))
	}
	return short, long
}

// runeLen is the length in UTF-8, also of what is no legal rune but may stand in a class.
func runeLen(r rune) int {
	if n := utf8.RuneLen(r); n > 0 {
		return n
	}
	return utf8.UTFMax
}
