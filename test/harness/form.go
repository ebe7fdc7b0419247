package harness

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// OneProcess reports whether the tests run on the one-process form: $POLICY_ENGINE_FORM is "one". Otherwise kernel and workers are processes of their own.
func OneProcess() bool { return os.Getenv("POLICY_ENGINE_FORM") == "one" }

// NeedWorkerProcesses skips a test of what happens to a worker's process or socket, where there is none.
func NeedWorkerProcesses(t testing.TB) {
	t.Helper()
	if OneProcess() {
		t.Skip("the workers are in the kernel's process: they have neither a process nor a socket that something could happen to")
	}
}

// standardPrograms are the workers whose policies policy-engine has, in the order of its lists.
var standardPrograms = []string{"policy-worker-1", "policy-worker-2"}

// inProcess are the workers that run in the kernel's process, in the order in which the program takes them.
func (s *Spec) inProcess() []WorkerSpec {
	if !OneProcess() {
		return nil
	}
	var standard, made []WorkerSpec
	for _, program := range standardPrograms {
		if i := slices.IndexFunc(s.Workers, func(w WorkerSpec) bool { return w.Program == program }); i >= 0 {
			standard = append(standard, s.Workers[i])
		}
	}
	if len(standard) > 0 {
		return standard // Workers made for tests beside them keep their processes.
	}
	for _, w := range s.Workers {
		if !slices.ContainsFunc(made, func(m WorkerSpec) bool { return m.worker() == w.worker() }) {
			made = append(made, w)
		}
	}
	return made
}

// isInProcess reports whether a worker, or another replica of it, runs in the kernel's process.
func (s *Spec) isInProcess(w WorkerSpec) bool {
	return slices.ContainsFunc(s.inProcess(), func(h WorkerSpec) bool { return h.worker() == w.worker() })
}

// worker is the name in the worker's configuration.
func (w *WorkerSpec) worker() string {
	if w.Worker != "" {
		return w.Worker
	}
	return w.Name
}

// startOneProcess starts the kernel with the workers in it.
func (e *Engine) startOneProcess(workers []WorkerSpec) {
	e.t.Helper()
	program, args := "policy-engine", []string{"--kernel-config", e.kernelFile()}
	env := slices.Clone(e.env)
	var suffixes []string
	for _, w := range workers {
		args = append(args, "--worker-config", e.workerFile(w))
		if !slices.Contains(standardPrograms, w.Program) {
			program = w.Program
		}
		for _, variable := range w.Env {
			if suffix, ok := strings.CutPrefix(variable, SuffixVariable+"="); ok {
				suffixes = append(suffixes, suffix)
			} else {
				env = append(env, variable)
			}
		}
	}
	env = append(env, SuffixesVariable+"="+strings.Join(suffixes, ","))
	e.Kernel = e.start("engine", Program(e.t, program), env, args...)
}

// What test/e2e/testworker reads: the suffix of its policies' names; and in the one-process form those of each of its workers, separated by commas.
const (
	SuffixVariable   = "TESTWORKER_SUFFIX"
	SuffixesVariable = "TESTWORKER_SUFFIXES"
)
