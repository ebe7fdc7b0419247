package telemetry

import (
	"bufio"
	"bytes"
	"io"
	"strconv"
	"strings"
)

// Source is whose metrics a text is.
type Source struct {
	// Process are the labels, as `name="value",…`, that tell processes apart: series of a process (go_, process_, its build) get them, all others are added up. Without
	// labels such series are left out.
	Process string
	// Reserved is the prefix of names that the source may not use.
	Reserved string
}

// ProcessLabels are the labels of a process, given as pairs of name and value.
func ProcessLabels(labels ...string) string {
	return strings.Trim(Series("", labels...), "{}")
}

// ofProcess reports whether a metric tells of one process: a sum over several would mean nothing.
func ofProcess(name string) bool {
	return strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || name == workerBuildInfo
}

// Exposition adds metrics of several sources up: series in the order in which they came, those of a metric family together, each once. It is not safe for
// concurrent use.
type Exposition struct {
	families []*family
	byName   map[string]*family
}

type family struct {
	name     string
	comments []string
	series   []string
	values   map[string]float64
}

// NewExposition makes an empty one.
func NewExposition() *Exposition { return &Exposition{byName: make(map[string]*family)} }

// Add adds a text in the Prometheus format. Lines that are no valid series are left out.
func (e *Exposition) Add(text []byte, from Source) {
	for line := range bytes.Lines(text) {
		s := strings.TrimSpace(string(line))
		if rest, ok := strings.CutPrefix(s, "#"); ok {
			fields := strings.Fields(rest)
			if len(fields) < 3 || fields[0] != "TYPE" && fields[0] != "HELP" || from.leavesOut(fields[1]) {
				continue
			}
			f := e.family(fields[1])
			if !hasComment(f, fields[0]) {
				f.comments = append(f.comments, s)
			}
			continue
		}
		name, value, ok := parseSeries(s)
		if !ok || from.leavesOut(name) {
			continue
		}
		f := e.family(e.familyName(name))
		if ofProcess(f.name) {
			name = withLabels(name, from.Process)
		}
		if _, known := f.values[name]; !known {
			f.series = append(f.series, name)
		}
		f.values[name] += value
	}
}

// leavesOut reports whether the source's series of this name don't count.
func (s Source) leavesOut(series string) bool {
	name, _, _ := strings.Cut(series, "{")
	return s.Reserved != "" && strings.HasPrefix(name, s.Reserved) || s.Process == "" && ofProcess(name)
}

// withLabels puts labels in front of those of a series.
func withLabels(series, labels string) string {
	name, own, has := strings.Cut(series, "{")
	if !has || own == "}" {
		return name + "{" + labels + "}"
	}
	return name + "{" + labels + "," + own
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
func (e *Exposition) familyName(series string) string {
	name, _, _ := strings.Cut(series, "{")
	for _, suffix := range [...]string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && e.byName[base] != nil {
			return base
		}
	}
	return name
}

func (e *Exposition) family(name string) *family {
	f := e.byName[name]
	if f == nil {
		f = &family{name: name, values: make(map[string]float64)}
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

// Write writes it.
func (e *Exposition) Write(w io.Writer) error {
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
