package policies

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func pattern(t interface {
	Helper()
	Fatal(...any)
}, expression string,
) *Pattern {
	t.Helper()
	p, err := CompilePattern(expression)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPatternsAreBounded(t *testing.T) {
	for expression, want := range map[string]string{
		`(`:                               "missing closing )",
		`(?=a)`:                           "invalid or unsupported Perl syntax",
		`(a)\1`:                           "invalid escape sequence",
		`a{1001}`:                         "invalid repeat count",
		`(a{1,1000}){1,1000}`:             "invalid repeat count",
		strings.Repeat(`[a-z]{1,999}`, 5): "",
		strings.Repeat(`[a-z]{1,999}`, 6): "its program has 11984 instructions, must be at most 10000; use smaller bounds",
	} {
		p, err := CompilePattern(expression)
		switch {
		case want == "" && (err != nil || p.Size() > MaxPatternSize || p.String() != expression):
			t.Errorf("%s: %v", expression, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %s", expression, err, want)
		}
	}
}

// hostile are patterns with texts that keep many of their instructions busy at each character.
var hostile = []struct{ pattern, text string }{
	{`[a-z0-9._-]{1,64}@[a-z0-9.-]{1,255}`, strings.Repeat("a", 1<<20)},
	{`[a-z]{1,1000}@`, strings.Repeat("a", 1<<20)},
	{`(a?){500}b`, strings.Repeat("a", 1<<20)},
	{`(a*)*(a*)*(a*)*b`, strings.Repeat("ac", 1<<19)},
	{`(a|aa|aaa)+$b`, strings.Repeat("ac", 1<<19)},
	{`(a|b|ab|ba|a.|.b){100}z`, strings.Repeat("ab", 1<<19)},
	{`(?m)^(([a-z])+.)+[A-Z]([a-z])+$`, strings.Repeat("a", 1<<20)},
	{`(?i)[k-s]{1,900}\x{1f600}`, strings.Repeat("\u212a", 1<<18)}, // the Kelvin sign
	{`\p{L}{1,900}!`, strings.Repeat("\u00e9", 1<<19)},
	{`(\b|\B){500}\w{500}!`, strings.Repeat("a", 1<<20)},
}

// A text of a megabyte costs no more than the budget, and has no answer.
func TestHostileTextsUseUpTheBudget(t *testing.T) {
	for _, c := range hostile {
		b := NewPatternBudget(t.Context(), DefaultPatternSteps)
		if found, err := pattern(t, c.pattern).Match(c.text, b); found || !errors.Is(err, ErrPatternBudget) {
			t.Errorf("%s: %v, %v, %d steps left", c.pattern, found, err, b.Left())
		}
		if found, err := pattern(t, "a").Match("a", b); found || !errors.Is(err, ErrPatternBudget) {
			t.Errorf("after %s: %v, %v", c.pattern, found, err)
		}
	}
}

// Texts as honest clients send them are far below the budget.
func TestHonestTextsFitTheBudget(t *testing.T) {
	for expression, text := range map[string]string{
		`^[A-Za-z0-9+/]*={0,2}$`:                      strings.Repeat("abcd", 100_000),
		`password`:                                    strings.Repeat("a long text of words, ", 40_000),
		`[a-z0-9._-]{1,64}@[a-z0-9.-]{1,255}!`:        strings.Repeat("alice@example.com, ", 300),
		`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`: "0190163d-8694-739b-aea5-966c26f8ad91",
	} {
		b := NewPatternBudget(t.Context(), DefaultPatternSteps)
		if _, err := pattern(t, expression).Match(text, b); err != nil {
			t.Errorf("%s: %v", expression, err)
		}
	}
}

// cancelled is a context that is over after it was asked some times.
type cancelled struct {
	context.Context
	after int
}

func (c *cancelled) Err() error {
	if c.after--; c.after < 0 {
		return context.Canceled
	}
	return nil
}

func TestAbandonedMatchesStop(t *testing.T) {
	for _, c := range hostile {
		for _, after := range []int{0, 1, 5} {
			b := NewPatternBudget(&cancelled{t.Context(), after}, MaxPatternSteps)
			found, err := pattern(t, c.pattern).Match(c.text, b)
			if done := MaxPatternSteps - b.Left(); found || !errors.Is(err, context.Canceled) || done > int64(after+1)*abandonedEvery {
				t.Errorf("%s: %v, %v, %d steps after %d questions", c.pattern, found, err, done, after)
			}
		}
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	if err := NewPatternBudget(ctx, 1).Charge(1); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestCharge(t *testing.T) {
	b := NewPatternBudget(t.Context(), 10)
	for steps, want := range map[int64]error{0: nil, 10: nil} {
		if err := b.Charge(steps); !errors.Is(err, want) {
			t.Errorf("%d: %v", steps, err)
		}
	}
	for _, steps := range []int64{1, 1 << 62, 0, 1 << 62} { // It does not come back, nor wrap around.
		if err := b.Charge(steps); !errors.Is(err, ErrPatternBudget) || b.Left() >= 0 {
			t.Errorf("%d: %v, %d left", steps, err, b.Left())
		}
	}
}

// visits is how many pairs of an instruction and a place there are that a match has to look at, found by plain sets.
func visits(program *syntax.Prog, text string) (n int64) {
	runes := append([]rune(text), -1)
	now, before := map[uint32]bool{}, rune(-1)
	for at, r := range runes {
		if now[uint32(program.Start)] = true; at > 0 && program.StartCond()&syntax.EmptyBeginText != 0 {
			delete(now, uint32(program.Start))
		}
		next := map[uint32]bool{}
		for grown := true; grown; {
			grown = false
			for pc := range now {
				var to []uint32
				switch inst := &program.Inst[pc]; inst.Op {
				case syntax.InstAlt, syntax.InstAltMatch:
					to = []uint32{inst.Out, inst.Arg}
				case syntax.InstCapture, syntax.InstNop:
					to = []uint32{inst.Out}
				case syntax.InstEmptyWidth:
					if syntax.EmptyOp(inst.Arg)&^syntax.EmptyOpContext(before, r) == 0 {
						to = []uint32{inst.Out}
					}
				case syntax.InstMatch:
					return n
				case syntax.InstFail:
				default:
					if r >= 0 && inst.MatchRune(r) {
						next[inst.Out] = true
					}
				}
				for _, pc := range to {
					grown = grown || !now[pc]
					now[pc] = true
				}
			}
		}
		n += int64(len(now))
		now, before = next, r
	}
	return n
}

// genExpression generates expressions of all that the syntax has.
func genExpression() *rapid.Generator[string] {
	sub := rapid.Deferred(genExpression)
	leaf := rapid.SampledFrom([]string{
		"a", "b", "z", "é", "K", "😀", ".", "[a-c]", "[^a]", "[^\\x{0}-\\x{7f}]", "\\w", "\\W", "\\d", "\\s", "\\p{L}", "\\pZ", "(?i:k)", "(?i:é)", "(?s:.)", "(?i:[a-s])",
		"^", "$", "\\b", "\\B", "\\A", "\\z", "(?m:^)", "(?m:$)", "", "\\n", "@", "\\x{fffd}",
	})
	return rapid.Custom(func(t *rapid.T) string {
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0, 1, 2:
			return leaf.Draw(t, "leaf")
		case 3, 4:
			return sub.Draw(t, "left") + sub.Draw(t, "right")
		case 5:
			return "(" + sub.Draw(t, "left") + "|" + sub.Draw(t, "right") + ")"
		case 6:
			return "(?:" + sub.Draw(t, "sub") + ")" + rapid.SampledFrom([]string{"*", "+", "?", "*?", "+?", "??"}).Draw(t, "times")
		case 7:
			low := rapid.IntRange(0, 6).Draw(t, "low")
			return fmt.Sprintf("(?:%s){%d,%d}", sub.Draw(t, "sub"), low, low+rapid.IntRange(0, 6).Draw(t, "more"))
		case 8:
			return "^" + sub.Draw(t, "sub") + "$"
		}
		return "(" + sub.Draw(t, "sub") + ")"
	})
}

var genText = rapid.Custom(func(t *rapid.T) string {
	return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{
		"a", "a", "a", "b", "c", "k", "K", "\u212a", "s", "ſ", "é", "É", "😀", "\n", " ", "-", "@", "9", "\u2028", "\xff", "\xe2\x82",
	}), 0, 40).Draw(t, "text"), "")
})

// Random patterns: the answer is that of package regexp, each place that has to be looked at is charged, and the worst
// case is one.
func TestPatternsAnswerAndChargeForAllTheyDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		expression, text := genExpression().Draw(t, "expression"), genText.Draw(t, "text")
		reference, err := regexp.Compile(expression)
		p, ours := CompilePattern(expression)
		if ours != nil && strings.Contains(ours.Error(), "must be at most 10000") {
			return
		}
		if (err == nil) != (ours == nil) {
			t.Fatalf("%v, package regexp says %v", ours, err)
		}
		if err != nil {
			return
		}
		want := reference.MatchString(text)
		b := NewPatternBudget(context.Background(), MaxPatternSteps)
		if got, err := p.Match(text, b); got != want || err != nil {
			t.Fatalf("%v, %v, package regexp says %v", got, err, want)
		}
		charged := MaxPatternSteps - b.Left()
		parsed, err := syntax.Parse(expression, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		program, err := syntax.Compile(parsed.Simplify())
		if err != nil {
			t.Fatal(err)
		}
		plain := pattern(t, expression)
		plain.skips, plain.loops = false, false
		b = NewPatternBudget(context.Background(), MaxPatternSteps)
		if got, err := plain.Match(text, b); got != want || err != nil {
			t.Fatalf("without its shortcuts: %v, %v, package regexp says %v", got, err, want)
		}
		work, steps, most := visits(program, text), MaxPatternSteps-b.Left(), p.Cost(len(text))
		if steps < work || charged > steps || steps > most {
			t.Fatalf("%d steps charged, %d without shortcuts; %d are visited, %d are the most", charged, steps, work, most)
		}
		if !want && !p.anchored && charged < int64(utf8.RuneCountInString(text)) {
			t.Fatalf("%d steps charged", charged)
		}
		// The same steps are enough the next time, and one less is not.
		b = NewPatternBudget(context.Background(), charged)
		if got, err := p.Match(text, b); got != want || err != nil || b.Left() != 0 {
			t.Fatalf("with %d steps: %v, %v, %d left", charged, got, err, b.Left())
		}
		if charged > 0 {
			if got, err := p.Match(text, NewPatternBudget(context.Background(), charged-1)); got || !errors.Is(err, ErrPatternBudget) {
				t.Fatalf("with %d steps: %v, %v", charged-1, got, err)
			}
		}
	})
}

func TestPatternsServeManyAtOnce(t *testing.T) {
	p := pattern(t, `^([a-z]{1,20}-){3}[0-9]+$`)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 500 {
				for text, want := range map[string]bool{fmt.Sprintf("ab-cd-ef-%d", i): true, fmt.Sprintf("ab-%d-ef", i): false} {
					if got, err := p.Match(text, NewPatternBudget(t.Context(), 10_000)); got != want || err != nil {
						t.Errorf("%s: %v, %v", text, got, err)
					}
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkPattern(b *testing.B) {
	for _, c := range []struct {
		pattern, text string
	}{
		{`[a-z]{1,1000}@`, strings.Repeat("a", 1<<14)},
		{`[a-z0-9._-]{1,64}@[a-z0-9.-]{1,255}`, strings.Repeat("a", 1<<14)},
		{`(a?){50}b`, strings.Repeat("a", 1<<10)},
		{`(a|b|ab|ba|a.|.b){100}z`, strings.Repeat("ab", 1<<10)},
		{`\b\p{L}{1,30}\b!`, strings.Repeat("é", 1<<10)},
		{`^[a-z-]{1,40}$`, "green-tea-with-mint"},
		{`^[A-Za-z0-9+/=]*$`, strings.Repeat("abcd", 1<<10)},
		{`password`, strings.Repeat("word pass", 1<<10)},
	} {
		p, err := CompilePattern(c.pattern)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("%s of %d", c.pattern, p.Size()), func(b *testing.B) {
			b.ReportAllocs()
			steps := int64(0)
			for b.Loop() {
				budget := PatternBudget{ctx: context.Background(), left: 1 << 40}
				if _, err := p.Match(c.text, &budget); err != nil {
					b.Fatal(err)
				}
				steps = 1<<40 - budget.left
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(steps), "ns/step")
			b.ReportMetric(float64(steps), "steps")
			b.ReportMetric(float64(steps)/float64(p.Cost(len(c.text))), "of-worst")
		})
	}
}
