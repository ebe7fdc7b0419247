package burst

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/policy-engine/policy-engine/test/burst"
)

// Report is what is written: build/reports/burst.json.
type Report struct {
	Transport string `json:"transport"`
	// Rate is how many requests were sent a second until all were in flight; 0: all at once.
	Rate int    `json:"rate"`
	Rows []*Row `json:"rows"`
}

// Row is a burst.
type Row struct {
	Form string `json:"form"`
	*burst.Result
	// Queued is how many calls have waited in the kernel until the worker had room.
	Queued float64 `json:"calls_queued"`
	// ResetsOfEngine and ResetsOfEnvoy are the RST_STREAM frames on the connections between the two.
	ResetsOfEngine float64 `json:"resets_of_engine"`
	ResetsOfEnvoy  float64 `json:"resets_of_envoy"`
	// Counts are metrics of the kernel and of Envoy about connections, queue and breaker, if requests were lost.
	Counts map[string]float64 `json:"counts,omitempty"`
}

// formName is what a form is made of.
func formName(form string) string {
	if form == "one" {
		return "one process"
	}
	return "two processes"
}

const columns = "%-14s %9s %9s %5s %9s   %9s %8s %8s   %9s %8s %8s   %8s %9s\n"

func (r *Report) head(out io.Writer) {
	how := "all requests sent at once"
	if r.Rate > 0 {
		how = fmt.Sprintf("%d requests sent per second until all are in flight", r.Rate)
	}
	fmt.Fprintf(out, "%s; then the upstream answers all of them at once. Times in ms.\n", how)
	fmt.Fprintf(out, columns, "", "", "", "", "", "request", "", "", "response", "", "", "calls", "resets of")
	fmt.Fprintf(out, columns, "form", "requests", "in flight", "lost", "unchecked", "took", "P50", "P99", "took", "P50", "P99", "queued", "engine")
}

func (r *Report) add(out io.Writer, row *Row) {
	r.Rows = append(r.Rows, row)
	ms := func(v float64) string { return fmt.Sprintf("%.1f", v) }
	number := func(v int) string { return fmt.Sprint(v) }
	fmt.Fprintf(out, columns, formName(row.Form), number(row.Requests), number(row.InFlight), number(row.LostCount()), number(row.Unchecked),
		ms(row.Request.Took), ms(row.Request.P50), ms(row.Request.P99), ms(row.Response.Took), ms(row.Response.P50), ms(row.Response.P99),
		number(int(row.Queued)), number(int(row.ResetsOfEngine)))
	for _, l := range row.Lost {
		fmt.Fprintf(out, "  lost: %v\n", l)
	}
	for _, name := range slices.Sorted(maps.Keys(row.Counts)) {
		fmt.Fprintf(out, "    %s %g\n", name, row.Counts[name])
	}
}

// write writes burst.json, and the table that was printed as burst.txt.
func (r *Report) write(dir, table string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	for name, content := range map[string]string{"burst.json": string(text) + "\n", "burst.txt": table} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	return nil
}

// goal is how many requests in flight the engine must serve without a loss. What a larger burst loses is only reported:
// it may take longer than the timeouts of the engine and of Envoy permit.
const goal = 9000

// verdict prints the sums. It returns an error for the first burst that did not do what it must.
func (r *Report) verdict(out io.Writer) error {
	var sum burst.Result
	var first error
	for _, row := range r.Rows {
		sum.Requests += row.Requests
		sum.Answered += row.Answered
		sum.Unchecked += row.Unchecked
		if err := row.Err(); err != nil && first == nil && (row.Requests <= goal || row.Unchecked+row.Repeated > 0) {
			first = fmt.Errorf("%s: %w", formName(row.Form), err)
		}
	}
	fmt.Fprintf(out, "burst: %d requests, %d unchecked, %d lost\n", sum.Requests, sum.Unchecked, sum.LostCount())
	return first
}
