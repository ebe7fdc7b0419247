package telemetry

import (
	"bufio"
	"bytes"
	"io"
	"runtime"

	"github.com/VictoriaMetrics/metrics"
)

// Names that more than one room has to know.
const (
	kernelBuildInfo = "policy_kernel_build_info"
	workerBuildInfo = "policy_worker_build_info"
)

// DescribeKernel and DescribeWorker add what each process tells of itself: which build it is, and how many log records were lost.
func DescribeKernel(set *metrics.Set, version string, lost func() uint64) {
	describe(set, kernelBuildInfo, "policy_kernel_log_records_lost_total", version, lost)
}

// DescribeWorker is DescribeKernel for a worker.
func DescribeWorker(set *metrics.Set, version string, lost func() uint64) {
	describe(set, workerBuildInfo, "policy_worker_log_records_lost_total", version, lost)
}

func describe(set *metrics.Set, build, records, version string, lost func() uint64) {
	set.NewGauge(Series(build, "version", version, "goversion", runtime.Version()), func() float64 { return 1 })
	CounterFunc(set, records, lost)
}

// CounterFunc has the set show a counter that somebody else counts.
func CounterFunc(set *metrics.Set, name string, value func() uint64) {
	set.RegisterMetricsWriter(func(w io.Writer) { metrics.WriteCounterUint64(w, name, value()) })
}

// WriteMetrics writes a set in the Prometheus text format, with the type and the meaning of each metric.
func WriteMetrics(w io.Writer, set *metrics.Set) error {
	return writeWithHelp(w, set.WritePrometheus)
}

// WriteProcessMetrics writes what the Go runtime and the system tell of this process.
func WriteProcessMetrics(w io.Writer) error {
	return writeWithHelp(w, metrics.WriteProcessMetrics)
}

func writeWithHelp(w io.Writer, write func(io.Writer)) error {
	metrics.ExposeMetadata(true)
	out := helpWriter{bufio.NewWriter(w)}
	write(out)
	return out.Flush()
}

// helpWriter gives each metric its meaning, where the library writes an empty one. What is written to it are whole lines.
type helpWriter struct{ *bufio.Writer }

// Write never fails: bufio keeps the first error for Flush.
func (h helpWriter) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		name, empty := bytes.CutPrefix(line, []byte("# HELP "))
		if !empty {
			if counter, ok := bytes.CutSuffix(line, []byte("_total gauge\n")); ok && line[0] == '#' { // The library's mistake, with process_io_….
				line = append(bytes.Clone(counter), "_total counter\n"...)
			}
			_, _ = h.Writer.Write(line)
			continue
		}
		metric := string(bytes.TrimSpace(name))
		if text := meaning(metric); text != "" {
			_, _ = h.WriteString("# HELP " + metric + " " + text + "\n")
		}
	}
	return len(p), nil
}
