package conformance

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is what build/reports/conformance.json has.
type report struct {
	Passed    int      `json:"passed"`
	Failed    int      `json:"failed"`
	Scenarios int      `json:"scenarios"`
	Results   []result `json:"results"`
	// Grammar are the conversations between Envoy and the kernel that were illegal.
	Grammar []string           `json:"grammar"`
	Streams map[string]streams `json:"streams"`
}

type streams struct {
	Streams  int     `json:"streams"`
	Messages int     `json:"messages"`
	Seconds  float64 `json:"seconds"`
}

type result struct {
	Name      string   `json:"name"`
	Phase     string   `json:"phase"`
	Mode      string   `json:"mode"`
	Protocol  string   `json:"protocol"`
	Fault     string   `json:"fault"`
	Transport string   `json:"transport"`
	Passed    bool     `json:"passed"`
	Problems  []string `json:"problems,omitempty"`
	Millis    float64  `json:"milliseconds"`
}

func (r *report) add(transport string, runs []*run, grammar []string, took time.Duration) {
	for _, run := range runs {
		s := run.s
		r.Results = append(r.Results, result{
			Name: s.name, Phase: s.phase, Mode: s.mode, Protocol: cmp.Or(s.protocol, http1), Fault: cmp.Or(s.fault, "none"), Transport: transport,
			Passed: len(run.problems) == 0, Problems: run.problems, Millis: float64(run.took.Microseconds()) / 1000,
		})
	}
	if r.Streams == nil {
		r.Streams = map[string]streams{}
	}
	counts := r.Streams[transport]
	n, m := runs[0].e.Tap.Counts()
	r.Streams[transport] = streams{counts.Streams + n, counts.Messages + m, counts.Seconds + took.Seconds()}
	r.Grammar = append(r.Grammar, grammar...)
}

// finish puts the results into the order of the table and counts: each scenario once for each transport, and an illegal conversation as a failure.
func (r *report) finish() {
	order := map[string]int{}
	for _, st := range allStages() {
		for i := range st.table {
			order[st.table[i].name] = len(order)
		}
	}
	slices.SortStableFunc(r.Results, func(a, b result) int { return cmp.Compare(order[a.Name], order[b.Name]) })
	r.Passed, r.Failed = 0, len(r.Grammar)
	names := map[string]bool{}
	for _, one := range r.Results {
		names[one.Name] = true
		if one.Passed {
			r.Passed++
		} else {
			r.Failed++
		}
	}
	r.Scenarios = len(names)
}

func verdict(passed bool) string {
	if passed {
		return "ok"
	}
	return "FAILED"
}

func progress(transport string, n, of int, r *run) string {
	text := fmt.Sprintf("%s %d/%d %-6s %s (%v)", transport, n, of, verdict(len(r.problems) == 0), r.s.name, r.took.Round(time.Millisecond))
	for _, problem := range r.problems {
		text += "\n    " + problem
	}
	return text
}

// print prints the table, a row for each scenario with its result on each transport, and the last line.
func (r *report) print(out io.Writer) {
	columns := slices.Sorted(func(yield func(string) bool) {
		for transport := range r.Streams {
			if !yield(transport) {
				return
			}
		}
	})
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nphase\tmode\tprotocol\tfault\tscenario\t%s\n", strings.Join(columns, "\t"))
	for i := 0; i < len(r.Results); {
		first := r.Results[i]
		cells := make([]string, len(columns))
		for ; i < len(r.Results) && r.Results[i].Name == first.Name; i++ {
			cells[slices.Index(columns, r.Results[i].Transport)] = verdict(r.Results[i].Passed)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", first.Phase, first.Mode, first.Protocol, first.Fault, first.Name, strings.Join(cells, "\t"))
	}
	_ = w.Flush()
	for _, transport := range columns {
		s := r.Streams[transport]
		fmt.Fprintf(out, "%s: %d streams, %d messages held against the grammar, %.1f s\n", transport, s.Streams, s.Messages, s.Seconds)
	}
	for _, problem := range r.Grammar {
		fmt.Fprintf(out, "grammar: %s\n", problem)
	}
	fmt.Fprintf(out, "%d scenarios\nconformance: %d passed, %d failed\n", r.Scenarios, r.Passed, r.Failed)
}

func (r *report) write(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
