package stage

import (
	"encoding/json"
	"errors"
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

// Restart ends processes by a signal and waits until supervisord has started them again.
func (s *Stage) Restart(timeout time.Duration, signal syscall.Signal, names ...string) error {
	before := s.PIDs()
	for _, name := range names {
		if err := s.Signal(name, signal); err != nil {
			return err
		}
	}
	return Within(timeout, func() error {
		now := s.PIDs()
		for _, name := range names {
			if now[name] == 0 || now[name] == before[name] {
				return fmt.Errorf("%s was not started again", name)
			}
		}
		return nil
	})
}

// Passing waits until, at a time after from, valid requests have passed for a while, and none has failed. It returns when that began.
func (s *Stage) Passing(timeout, while time.Duration, from time.Time) (since time.Time, err error) {
	err = Within(timeout, func() error {
		if since = time.Now().Add(-while); since.Before(from) {
			return errors.New("it is too early to say")
		}
		if passed, failed := s.Ledger.Recent(since); failed > 0 || passed == 0 {
			return fmt.Errorf("of the valid requests of the last %v, %d passed and %d failed", while, passed, failed)
		}
		return nil
	})
	if err != nil {
		return since, fmt.Errorf("valid requests do not pass: %w", err)
	}
	return since, nil
}

// Ended waits until all requests before that one have ended.
func (s *Stage) Ended(timeout time.Duration, before uint64) error {
	return Within(timeout, func() error {
		if !s.Ledger.Ended(before) {
			return errors.New("requests are under way that should have ended")
		}
		return nil
	})
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
	profiles := map[string]string{Worker1: s.Admin(0) + "/workers/" + workerName + "/debug/pprof/goroutine?replica=0"}
	if s.spec.Replicas > 1 {
		profiles[Worker2] = s.Admin(0) + "/workers/" + workerName + "/debug/pprof/goroutine?replica=1"
	}
	for i := range s.ports.kernels {
		profiles[[...]string{Kernel, Kernel2}[i]] = s.Admin(i) + "/debug/pprof/goroutine"
	}
	for name, page := range profiles {
		n, err := goroutines("http://" + page)
		u := all[name]
		if u.Goroutines = n; err == nil && (n == 0 || u.RSS == 0 || u.Descriptors == 0) {
			err = errors.New("it takes nothing, so it was not there")
		}
		if err != nil {
			return nil, fmt.Errorf("measure %s: %w", name, err)
		}
		all[name] = u
	}
	return all, nil
}

// Within waits until the condition holds.
func Within(d time.Duration, condition func() error) error { return process.Within(d, condition) }
