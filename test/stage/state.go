package stage

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/policy-engine/policy-engine/test/process"
)

func wantOK(url string) error {
	status, body, err := process.Get(url)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d, %.300s", status, body)
	}
	return err
}

// Whole is nil when each kernel is ready and has all replicas of the worker, and says what is missing otherwise.
func (s *Stage) Whole() error {
	for i := range s.ports.kernels {
		status, body, err := process.Get("http://" + s.Admin(i) + "/health/ready")
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("kernel %d is not ready: %.500s", i+1, body)
		}
		var ready struct {
			Workers []struct {
				Replicas []struct{ Socket, Problem string }
			}
		}
		if err := json.Unmarshal([]byte(body), &ready); err != nil {
			return fmt.Errorf("read /health/ready: %w", err)
		}
		for _, w := range ready.Workers {
			for _, r := range w.Replicas {
				if r.Problem != "" {
					return fmt.Errorf("replica %s: %s", filepath.Base(r.Socket), r.Problem)
				}
			}
		}
	}
	return nil
}

// Serving is nil when each kernel is ready, whatever its replicas are like.
func (s *Stage) Serving() error {
	for i := range s.ports.kernels {
		if err := wantOK("http://" + s.Admin(i) + "/health/ready"); err != nil {
			return err
		}
	}
	return nil
}

// Scrape reads a kernel's metrics, the workers' among them.
func (s *Stage) Scrape(kernel int) (process.Metrics, error) {
	status, body, err := process.Get("http://" + s.Admin(kernel) + "/metrics")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d", status)
	}
	if err != nil {
		return nil, fmt.Errorf("scrape the kernel: %w", err)
	}
	return process.ParseMetrics(body)
}

// The engine's processes, as supervisord calls them.
const (
	Kernel  = "kernel"
	Kernel2 = "kernel-2"
	Worker1 = "worker-1"
	Worker2 = "worker-2"
)

// configNames tell the processes apart by their command lines.
var configNames = map[string]string{
	Kernel: "/kernel-config.yaml", Kernel2: "/kernel-config-2.yaml", Worker1: "/worker-config-1.yaml", Worker2: "/worker-config-2.yaml",
}

// PIDs are the engine's processes that are there now, by their names.
func (s *Stage) PIDs() map[string]int {
	found := make(map[string]int)
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), s.Etc) {
			continue // Ended since, or another's.
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || parent(pid) != s.supervisor.PID() {
			continue
		}
		for name, config := range configNames {
			if strings.Contains(string(text), s.Etc+config) {
				found[name] = pid
			}
		}
	}
	return found
}

// parent is the parent of a process that runs, 0 if there is none: a zombie's ppid counts no more.
func parent(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The state and the parent follow the name, which is in parentheses (proc(5)).
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 2 || fields[0] == "Z" {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

// PID is a process of the engine's.
func (s *Stage) PID(name string) (int, error) {
	pid, ok := s.PIDs()[name]
	if !ok {
		return 0, fmt.Errorf("%s is not there", name)
	}
	return pid, nil
}

// Signal sends a signal to a process of the engine's.
func (s *Stage) Signal(name string, signal syscall.Signal) error {
	pid, err := s.PID(name)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, signal); err != nil {
		return fmt.Errorf("signal %s with %v: %w", name, signal, err)
	}
	return nil
}

// SignalSupervisor sends a signal to supervisord, who reads the logs.
func (s *Stage) SignalSupervisor(signal syscall.Signal) error { return s.supervisor.Signal(signal) }

// Supervisor is supervisord's process.
func (s *Stage) Supervisor() int { return s.supervisor.PID() }

// resume ends all stops, so that everybody can be told to end.
func (s *Stage) resume() {
	_ = s.supervisor.Signal(syscall.SIGCONT)
	for _, pid := range s.PIDs() {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
}

// Usage is what a process takes of the machine.
type Usage struct {
	RSS         int64 `json:"rss_bytes"`
	Descriptors int   `json:"descriptors"`
	Goroutines  int   `json:"goroutines"`
}

// Usages are what the engine's processes take now. A process that is just not there has none.
func (s *Stage) Usages() (map[string]Usage, error) {
	all := make(map[string]Usage)
	for name, pid := range s.PIDs() {
		used, err := process.UsageOf(pid)
		if err != nil {
			return nil, err
		}
		descriptors, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			return nil, err
		}
		all[name] = Usage{RSS: used.RSS, Descriptors: len(descriptors)}
	}
	for i := range s.ports.kernels {
		m, err := s.Scrape(i)
		if err != nil {
			return nil, err
		}
		name := [...]string{Kernel, Kernel2}[i]
		u := all[name]
		u.Goroutines = int(m["go_goroutines"])
		all[name] = u
	}
	for i := range s.spec.Replicas {
		n, err := s.workerGoroutines(i)
		if err != nil {
			return nil, err
		}
		name := [...]string{Worker1, Worker2}[i]
		u := all[name]
		u.Goroutines = n
		all[name] = u
	}
	return all, nil
}

// Within waits until the condition holds.
func Within(d time.Duration, condition func() error) error { return process.Within(d, condition) }
