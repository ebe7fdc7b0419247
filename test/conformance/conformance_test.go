package conformance

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

var (
	transportsFlag = flag.String("transports", "", "the kernel's transports to test, separated by commas; $POLICY_ENGINE_TRANSPORT, or fast, if it is empty")
	reportFlag     = flag.String("report", "", "write the results as JSON into this file")
	tableFlag      = flag.Bool("table", false, "print each result as it comes, and the table")
	onlyFlag       = flag.String("only", "", "only the scenarios whose names contain this")
	atOnceFlag     = flag.Int("at-once", 16, "so many scenarios at the same time")
)

func TestMain(m *testing.M) {
	flag.Parse()
	harness.Main(m)
}

func transports() []string {
	text := *transportsFlag
	if text == "" {
		text = os.Getenv("POLICY_ENGINE_TRANSPORT")
	}
	if text == "" {
		text = "fast"
	}
	return strings.Split(text, ",")
}

// scenarios is the whole table.
func scenarios() []*scenario {
	var all []*scenario
	for _, part := range tables {
		for i := range part {
			if *onlyFlag == "" || strings.Contains(part[i].name, *onlyFlag) {
				all = append(all, &part[i])
			}
		}
	}
	return all
}

// TestTable: the table itself is in order.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range scenarios() {
		switch {
		case seen[s.name]:
			t.Errorf("%s: there are two", s.name)
		case s.phase == "" || s.mode == "":
			t.Errorf("%s: phase or mode is missing", s.name)
		case s.upstream == nil:
			t.Errorf("%s: what the upstream must see is missing", s.name)
		case s.play == nil && len(s.client) == 0:
			t.Errorf("%s: what the client must see is missing", s.name)
		case strings.ContainsAny(s.name, "/\r\n"):
			t.Errorf("%s: the name has a character that it can't have", s.name)
		}
		seen[s.name] = true
	}
}

// TestConformance plays the table against the real Envoy.
func TestConformance(t *testing.T) {
	all := scenarios()
	report := &report{}
	for _, transport := range transports() {
		t.Run(transport, func(t *testing.T) {
			start := time.Now()
			e := startEngine(t, transport, all, nil)
			var runs []*run
			performAll(e, all, *atOnceFlag, func(r *run) {
				runs = append(runs, r)
				if *tableFlag {
					fmt.Println(progress(transport, len(runs), len(all), r))
				}
			})
			for _, r := range runs {
				r.checkStayedAway()
				t.Run(r.s.name, func(t *testing.T) {
					for _, problem := range r.problems {
						t.Error(problem)
					}
				})
			}
			for _, stray := range e.upstream.strays {
				t.Errorf("a request of no scenario reached the upstream: %s", stray)
			}
			problems := e.Tap.Problems() // The harness makes errors of them.
			report.add(transport, runs, problems, time.Since(start))
		})
	}
	report.sort(slices.Collect(func(yield func(string) bool) {
		for _, s := range all {
			if !yield(s.name) {
				return
			}
		}
	}))
	if *tableFlag {
		report.print(os.Stdout)
	}
	if *reportFlag != "" {
		if err := report.write(*reportFlag); err != nil {
			t.Error(err)
		}
	}
}

// checkStayedAway looks once more, when all is over, that nothing has arrived late.
func (r *run) checkStayedAway() {
	if n := len(r.e.upstream.of(r.s.name)); n > r.s.upstream.count && len(r.problems) == 0 {
		r.errorf("%d requests have reached the upstream in the end, want %d", n, r.s.upstream.count)
	}
}
