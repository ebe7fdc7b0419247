package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

// startLogging starts an engine that logs at level debug to a file, pipe or device.
func startLogging(t *testing.T, log string) *harness.Engine {
	t.Helper()
	a, b := testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")
	for _, w := range []*harness.WorkerSpec{&a, &b} {
		w.Config += "  observability: {log_level: debug}\n"
	}
	return harness.StartEngine(t, harness.Spec{
		Kernel:  meteredRoutes + "  observability: {log_level: debug}\n",
		Workers: []harness.WorkerSpec{a, b}, Log: log,
	})
}

// fifo makes a pipe with a name, and opens its end for reading.
func fifo(t *testing.T) (path string, reader *os.File) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "log")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, openFifo(t, path)
}

func openFifo(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // It does not wait for a writer.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// use sends requests, each of which is logged at level debug, and checks that they are decided as ever.
func use(t *testing.T, e *harness.Engine, n int) {
	t.Helper()
	for range n {
		get(t, e, 200, "/metered")
		get(t, e, 403, "/metered", "X-Misbehave: deny", mustNotArrive+"denied")
	}
	get(t, e, 500, "/metered", "X-Misbehave: panic", mustNotArrive+"panic")
}

// lostRecords waits until the kernel has counted log records that were lost.
func lostRecords(t *testing.T, e *harness.Engine) {
	t.Helper()
	harness.Eventually(t, "lost records are counted", func() error {
		if n := e.Scrape()["policy_kernel_log_records_lost_total"]; n == 0 {
			return fmt.Errorf("%v", n)
		}
		return nil
	})
}

// TestFullLogDisk: requests go on, and what is lost is counted.
func TestFullLogDisk(t *testing.T) {
	t.Parallel()
	e := startLogging(t, "/dev/full")
	use(t, e, 10)
	lostRecords(t, e)
	if n := e.Scrape()["policy_worker_log_records_lost_total"]; n == 0 {
		t.Error("the workers have lost nothing")
	}
}

// TestStoppedLogReader: a pipe that nobody reads holds up no request.
func TestStoppedLogReader(t *testing.T) {
	t.Parallel()
	path, reader := fifo(t)
	e := startLogging(t, path)
	use(t, e, 200) // More than a pipe takes (pipe(7): 64 KiB).
	lines := bufio.NewScanner(reader)
	lines.Buffer(nil, 1<<20)
	decisions := 0
	for decisions < 400 && lines.Scan() { // What waited comes.
		if strings.Contains(lines.Text(), `"message":"decision"`) {
			decisions++
		}
	}
	if decisions < 400 {
		t.Errorf("%d decisions in the log, %v", decisions, lines.Err())
	}
}

// TestClosedLogPipe: the end of the reader is not the end of the engine. A new reader is told what it has missed.
func TestClosedLogPipe(t *testing.T) {
	t.Parallel()
	path, reader := fifo(t)
	e := startLogging(t, path)
	_ = reader.Close()
	use(t, e, 10)
	lostRecords(t, e)
	reader = openFifo(t, path)
	lines := bufio.NewScanner(reader)
	lines.Buffer(nil, 1<<20)
	use(t, e, 1)
	for lines.Scan() {
		found, problems := harness.ParseLog(lines.Text(), "kernel", "worker")
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		if found[0].Component == "kernel" && found[0].Message == "log records were lost" && found[0].Metadata["lost"].(float64) > 0 {
			return
		}
	}
	t.Errorf("no line tells of what was lost; %v", lines.Err())
}
