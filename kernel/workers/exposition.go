package workers

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// metricsTimeout is how long a replica may take to tell its metrics.
const metricsTimeout = time.Second

// reserved are the prefixes of metrics that are the kernel's own in a scrape.
var reserved = [...]string{"policy_kernel_", "go_", "process_"}

func isReserved(name string) bool {
	for _, prefix := range reserved {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// WriteMetrics writes the metrics of all replicas in the Prometheus text format: a series that several replicas have is written once, with the sum of their
// values. A replica that can't be asked counts with its last ones, so that no counter seems to go back.
func (reg *Registry) WriteMetrics(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, metricsTimeout)
	defer cancel()
	var asked sync.WaitGroup
	for _, worker := range reg.workers {
		for _, r := range worker.replicas {
			reg.mu.Lock()
			s := r.session
			reg.mu.Unlock()
			if s == nil {
				continue
			}
			asked.Go(func() {
				if resp, err := s.control.GetMetrics(ctx, &workerv1.GetMetricsRequest{}); err == nil {
					reg.mu.Lock()
					r.metrics = resp.Text
					reg.mu.Unlock()
				}
			})
		}
	}
	asked.Wait()
	e := newExposition()
	reg.mu.Lock()
	for _, worker := range reg.workers {
		for _, r := range worker.replicas {
			e.add(r.metrics)
		}
	}
	reg.mu.Unlock()
	return e.write(w)
}

// exposition is a set of series in the order in which they came, those of a metric family together.
type exposition struct {
	families []*family
	byName   map[string]*family
}

type family struct {
	comments []string
	series   []string
	values   map[string]float64
}

func newExposition() *exposition { return &exposition{byName: make(map[string]*family)} }

// add adds a text of a worker. Lines that are no valid series are left out, as are those that pretend to be the kernel's.
func (e *exposition) add(text []byte) {
	for line := range bytes.Lines(text) {
		s := strings.TrimSpace(string(line))
		if rest, ok := strings.CutPrefix(s, "#"); ok {
			fields := strings.Fields(rest)
			if len(fields) < 3 || fields[0] != "TYPE" && fields[0] != "HELP" || isReserved(fields[1]) {
				continue
			}
			f := e.family(fields[1])
			if !hasComment(f, fields[0]) {
				f.comments = append(f.comments, s)
			}
			continue
		}
		name, value, ok := parseSeries(s)
		if !ok || isReserved(name) {
			continue
		}
		f := e.family(e.familyName(name))
		if _, known := f.values[name]; !known {
			f.series = append(f.series, name)
		}
		f.values[name] += value
	}
}

func hasComment(f *family, kind string) bool {
	for _, c := range f.comments {
		if fields := strings.Fields(strings.TrimPrefix(c, "#")); fields[0] == kind {
			return true
		}
	}
	return false
}

// familyName is the family of a series: series of a histogram or summary belong to the name that was declared.
func (e *exposition) familyName(series string) string {
	name, _, _ := strings.Cut(series, "{")
	for _, suffix := range [...]string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && e.byName[base] != nil {
			return base
		}
	}
	return name
}

func (e *exposition) family(name string) *family {
	f := e.byName[name]
	if f == nil {
		f = &family{values: make(map[string]float64)}
		e.byName[name] = f
		e.families = append(e.families, f)
	}
	return f
}

// parseSeries splits `name{label="value"} 1.5 [timestamp]`. The timestamp is dropped: sums have none.
func parseSeries(s string) (name string, value float64, ok bool) {
	end := strings.IndexAny(s, "{ \t")
	if end <= 0 {
		return "", 0, false
	}
	if s[end] == '{' {
		n := labelsEnd(s[end:])
		if n < 0 {
			return "", 0, false
		}
		end += n
	}
	fields := strings.Fields(s[end:])
	if len(fields) < 1 || len(fields) > 2 {
		return "", 0, false
	}
	value, err := strconv.ParseFloat(fields[0], 64)
	return s[:end], value, err == nil
}

// labelsEnd is the length of the label block that s begins with; a brace within a value doesn't end it.
func labelsEnd(s string) int {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && c == '}':
			return i + 1
		}
	}
	return -1
}

func (e *exposition) write(w io.Writer) error {
	b := bufio.NewWriter(w)
	for _, f := range e.families {
		if len(f.series) == 0 {
			continue
		}
		for _, c := range f.comments {
			_, _ = b.WriteString(c) // bufio keeps the first error for Flush.
			_ = b.WriteByte('\n')
		}
		for _, name := range f.series {
			_, _ = b.WriteString(name)
			_ = b.WriteByte(' ')
			_, _ = b.WriteString(formatValue(f.values[name]))
			_ = b.WriteByte('\n')
		}
	}
	return b.Flush()
}

// formatValue writes whole numbers without an exponent.
func formatValue(v float64) string {
	if v == float64(int64(v)) && v < 1<<53 && v > -1<<53 {
		return strconv.FormatInt(int64(v), 10)
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}
