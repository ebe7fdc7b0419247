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

// chosen are the scenarios of tables that are to be played.
func chosen(tables ...[]scenario) []*scenario {
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

// allStages are the engine as it should be, with most of the tables, and those that have something wrong.
func allStages() []stage {
	all := []stage{{name: "", table: slices.Concat(tables...)}}
	return append(all, stages...)
}

// TestTable: the table itself is in order.
func TestTable(t *testing.T) {
	var all []*scenario
	for _, st := range allStages() {
		all = append(all, chosen(st.table)...)
	}
	seen := map[string]bool{}
	for _, s := range all {
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
	results := &report{}
	of := 0
	for _, st := range allStages() {
		of += len(chosen(st.table))
	}
	for _, transport := range transports() {
		t.Run(transport, func(t *testing.T) {
			n := 0
			for _, st := range allStages() {
				all := chosen(st.table)
				if len(all) == 0 {
					continue
				}
				start := time.Now()
				e := startEngine(t, transport, all, engineOptions{absent: st.absent, envoy: st.envoy})
				if st.spoil != nil {
					st.spoil(t, e)
				}
				var runs []*run
				performAll(e, all, *atOnceFlag, func(r *run) {
					runs = append(runs, r)
					if n++; *tableFlag {
						fmt.Println(progress(transport, n, of, r))
					}
				})
				tell(t, e, runs)
				results.add(transport, runs, e.Tap.Problems(), time.Since(start)) // The harness makes errors of those.
			}
		})
	}
	results.finish()
	if *tableFlag {
		results.print(os.Stdout)
	}
	if *reportFlag != "" {
		if err := results.write(*reportFlag); err != nil {
			t.Error(err)
		}
	}
}

// tell makes a subtest of each run.
func tell(t *testing.T, e *engine, runs []*run) {
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
}

// checkStayedAway looks once more, when all is over, that nothing has arrived late.
func (r *run) checkStayedAway() {
	if n := len(r.e.upstream.of(r.s.name)); n > r.s.upstream.count && len(r.problems) == 0 {
		r.errorf("%d requests have reached the upstream in the end, want %d", n, r.s.upstream.count)
	}
}
