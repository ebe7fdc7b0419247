package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/tap"
)

// Spec says what to start. In configuration files, ${RUN_DIR} (and ${POLICY_ENGINE_RUN_DIR}) is the folder of the
// sockets, ${PORT_KERNEL} and ${PORT_ADMIN} are the kernel's ports,
// ${TRANSPORT} its transport.
type Spec struct {
	// Kernel is the kernel's configuration without its server and admin, indented as below policy_kernel; or KernelFile is a file.
	Kernel     string
	KernelFile string
	Workers    []WorkerSpec
	// EnvoyKernel is the kernel's configuration for which Envoy is set up, where it is another one than Kernel.
	EnvoyKernel string
	// EnvoyArgs are further arguments for `policyctl envoy`.
	EnvoyArgs []string
	// EditEnvoy may change the configuration that policyctl prints.
	EditEnvoy func(string) string
	// Upstream answers what arrives, in place of the upstream's own answer.
	Upstream http.Handler
	// NoEnvoy leaves Envoy and its upstream out, for tests that talk to the kernel themselves.
	NoEnvoy bool
	// Second has a second kernel with the same configuration and workers, which Envoy asks too. There is no tap then.
	Second bool
	// Absent lists workers that are not started.
	Absent []string
	// Log is the file, pipe or device that kernel and workers log to, in place of the output that tests can look at.
	Log string
	// Descriptors is the kernel's limit of open files; 0 leaves that of the test.
	Descriptors int
	// Env are variables for all programs.
	Env []string
	// Transport is the kernel's, if it is not that of all tests.
	Transport string
	// Untapped leaves out the tap between Envoy and the kernel, which holds their conversation against the grammar of ext_proc. There is none either where EnvoyArgs
	// say where the engine is, or that it has TLS. Falsify changes the kernel's answers on their way.
	Untapped bool
	Falsify  tap.Falsify
}

// WorkerSpec is one worker process.
type WorkerSpec struct {
	// Name is how the test calls the process; replicas of a worker have different ones.
	Name    string
	Program string
	// Worker is the name in the configuration, if it is another one than Name.
	Worker string
	// Config is the configuration, indented as below policy_worker; or File is a file.
	Config string
	File   string
	Env    []string
}

// transport is the kernel's transport: $POLICY_ENGINE_TRANSPORT, so that all tests run on each; fast if there is none.
func transport() string {
	if name := os.Getenv("POLICY_ENGINE_TRANSPORT"); name != "" {
		return name
	}
	return "fast"
}

// Engine is a kernel with its workers, and Envoy and an upstream around it.
type Engine struct {
	Kernel   *Process
	Envoy    *Process
	Upstream *Upstream
	// Tap is between Envoy and the kernel, if it is not left out; it fails the test when their conversation breaks the grammar, unless answers are falsified.
	Tap *tap.Tap

	// Addresses of the form host:port.
	Listen     string // Envoy's, for clients
	EnvoyAdmin string
	ExtProc    string
	Admin      string
	// Second is the second kernel, if there is one, with its addresses.
	Second                     *Process
	SecondExtProc, SecondAdmin string

	// Dir has the configuration files, RunDir the sockets.
	Dir    string
	RunDir string

	t       testing.TB
	spec    Spec
	env     []string
	workers map[string]*Process
}

// StartEngine starts all of the spec and returns when the engine is ready. Everything ends with the test.
func StartEngine(t testing.TB, spec Spec) *Engine {
	t.Helper()
	e := Prepare(t, spec)
	for _, w := range spec.Workers {
		if !slices.Contains(spec.Absent, w.Name) {
			e.StartWorker(w.Name)
		}
	}
	e.StartKernel()
	if spec.Second {
		e.StartSecond()
	}
	if len(spec.Absent) == 0 {
		e.WaitReady()
	} else {
		e.WaitServing()
	}
	if !spec.NoEnvoy {
		e.StartEnvoy()
	}
	return e
}

// Prepare writes the files and chooses the ports, and starts nothing but the upstream.
func Prepare(t testing.TB, spec Spec) *Engine {
	t.Helper()
	e := &Engine{
		Listen: address(FreePort(t)), EnvoyAdmin: address(FreePort(t)), ExtProc: address(FreePort(t)), Admin: address(FreePort(t)),
		Dir: t.TempDir(), t: t, spec: spec, workers: make(map[string]*Process),
	}
	if spec.Second {
		e.SecondExtProc, e.SecondAdmin = address(FreePort(t)), address(FreePort(t))
	}
	// A socket's path has at most 107 bytes (unix(7)), so not below the folder of a test with a long name.
	run, err := os.MkdirTemp("", "e2e-run-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	e.RunDir = run
	if err := os.Mkdir(filepath.Join(run, "workers"), 0o700); err != nil {
		t.Fatal(err)
	}
	e.env = append([]string{"RUN_DIR=" + run, "POLICY_ENGINE_RUN_DIR=" + run, "PORT_KERNEL=" + port(e.ExtProc), "PORT_ADMIN=" + port(e.Admin), "TRANSPORT=" + cmp.Or(spec.Transport, transport())}, spec.Env...)
	if spec.KernelFile == "" {
		e.WriteKernel(spec.Kernel)
	}
	if spec.EnvoyKernel != "" {
		e.write("envoy-kernel.yaml", server+spec.EnvoyKernel)
	}
	for _, w := range spec.Workers {
		if w.File == "" {
			e.write(w.Name+".yaml", "policy_worker:\n"+w.Config)
		}
	}
	if !spec.NoEnvoy {
		e.Upstream = StartUpstream(t, spec.Upstream)
	}
	return e
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// server is how each configuration of a kernel begins.
const server = `policy_kernel:
  server: {address: 127.0.0.1, port: "${PORT_KERNEL}", transport: "${TRANSPORT}"}
  admin: {address: 127.0.0.1, port: "${PORT_ADMIN}"}
`

// WriteKernel writes the kernel's configuration file.
func (e *Engine) WriteKernel(text string) {
	e.t.Helper()
	e.write("kernel.yaml", server+text)
}

func (e *Engine) write(name, text string) {
	e.t.Helper()
	if err := os.WriteFile(filepath.Join(e.Dir, name), []byte(text), 0o600); err != nil {
		e.t.Fatal(err)
	}
}

func (e *Engine) kernelFile() string {
	if e.spec.KernelFile != "" {
		return e.spec.KernelFile
	}
	return filepath.Join(e.Dir, "kernel.yaml")
}

// StartKernel starts the kernel, in the one-process form with the workers in it. It may have been started before, and have ended.
func (e *Engine) StartKernel() {
	e.t.Helper()
	if workers := e.spec.inProcess(); len(workers) > 0 {
		e.startOneProcess(workers)
		return
	}
	e.Kernel = e.start("kernel", Program(e.t, "policy-kernel"), e.env, "--config", e.kernelFile())
}

// start starts a program, with its standard output where the spec wants it.
func (e *Engine) start(name, program string, env []string, args ...string) *Process {
	e.t.Helper()
	if (name == "kernel" || name == "engine") && e.spec.Descriptors > 0 {
		args = append([]string{"-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, e.spec.Descriptors), program}, args...)
		program = "/bin/sh"
	}
	if e.spec.Log == "" {
		return Start(e.t, name, program, env, args...)
	}
	return Start(e.t, name, "/bin/sh", append(slices.Clone(env), "LOG="+e.spec.Log), append([]string{"-c", `exec "$0" "$@" >"$LOG"`, program}, args...)...)
}

// StartSecond starts the second kernel. It may have been started before, and have ended.
func (e *Engine) StartSecond() {
	e.t.Helper()
	env := append(slices.Clone(e.env), "PORT_KERNEL="+port(e.SecondExtProc), "PORT_ADMIN="+port(e.SecondAdmin)) // The last one counts.
	e.Second = Start(e.t, "second kernel", Program(e.t, "policy-kernel"), env, "--config", e.kernelFile())
}

// StartWorker starts the worker of that name in the spec. It may have been started before, and have ended. One that runs in the kernel's process starts with the kernel.
func (e *Engine) StartWorker(name string) {
	e.t.Helper()
	w := e.workerSpec(name)
	if e.spec.isInProcess(w) {
		return
	}
	e.workers[name] = e.start(name, Program(e.t, w.Program), slices.Concat(e.env, w.Env), "--config", e.workerFile(w))
}

func (e *Engine) workerSpec(name string) WorkerSpec {
	e.t.Helper()
	i := slices.IndexFunc(e.spec.Workers, func(w WorkerSpec) bool { return w.Name == name })
	if i < 0 {
		e.t.Fatalf("the spec has no worker %q", name)
	}
	return e.spec.Workers[i]
}

func (e *Engine) workerFile(w WorkerSpec) string {
	if w.File != "" {
		return w.File
	}
	return filepath.Join(e.Dir, w.Name+".yaml")
}

// Worker is the process of that name: the kernel's, if the worker runs in it.
func (e *Engine) Worker(name string) *Process {
	e.t.Helper()
	if e.Kernel != nil && e.spec.isInProcess(e.workerSpec(name)) {
		return e.Kernel
	}
	if e.workers[name] == nil {
		e.t.Fatalf("worker %q was not started", name)
	}
	return e.workers[name]
}

// StartEnvoy starts Envoy with the configuration that policyctl prints for the kernel's.
func (e *Engine) StartEnvoy() {
	e.t.Helper()
	file := e.kernelFile()
	if e.spec.EnvoyKernel != "" {
		file = filepath.Join(e.Dir, "envoy-kernel.yaml")
	}
	args := slices.Concat([]string{"envoy", "--config", file, "--listen", e.Listen, "--admin", e.EnvoyAdmin, "--upstream", e.Upstream.Address}, e.engines(), e.spec.EnvoyArgs)
	ctl := exec.Command(Program(e.t, "policyctl"), args...)
	ctl.Env = append(os.Environ(), e.env...)
	var stderr strings.Builder
	ctl.Stderr = &stderr
	yaml, err := ctl.Output()
	if err != nil {
		e.t.Fatalf("policyctl %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	text := string(yaml)
	if e.spec.EditEnvoy != nil {
		text = e.spec.EditEnvoy(text)
	}
	e.write("envoy.yaml", text)
	e.setTapTimeout(text)
	e.Envoy = Start(e.t, "envoy", Envoy(e.t), nil, "--config-path", filepath.Join(e.Dir, "envoy.yaml"), "--disable-hot-restart", "--concurrency", "1", "--log-level", "warn",
		"--file-flush-interval-msec", "100")
	Eventually(e.t, "Envoy is ready", func() error {
		if !e.Envoy.Running() {
			e.t.Fatal("Envoy has ended")
		}
		status, body, err := get("http://" + e.EnvoyAdmin + "/ready")
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("status %d, %s, error %w", status, body, orNone(err))
		}
		return nil
	})
	e.watchTap()
}

// engines are the arguments that say where the engine is, if it is elsewhere than the configuration says.
func (e *Engine) engines() []string {
	if e.spec.Second {
		return []string{"--engine", e.ExtProc + "," + e.SecondExtProc}
	}
	return e.startTap()
}

// WaitReady waits until the kernel says that it is ready.
func (e *Engine) WaitReady() {
	e.t.Helper()
	e.waitHealth(http.StatusOK, "/health/ready")
}

// WaitNotReady waits until the kernel says that it is not ready.
func (e *Engine) WaitNotReady() {
	e.t.Helper()
	e.waitHealth(http.StatusServiceUnavailable, "/health/ready")
}

// WaitServing waits until the kernel lives, ready or not, and takes streams.
func (e *Engine) WaitServing() {
	e.t.Helper()
	e.waitHealth(http.StatusOK, "/health/live")
	Eventually(e.t, "the kernel listens", func() error { return dial(e.ExtProc) })
}

func (e *Engine) waitHealth(want int, path string) {
	e.t.Helper()
	Eventually(e.t, fmt.Sprintf("%s says %d", path, want), func() error {
		if !e.Kernel.Running() {
			e.t.Fatal("the kernel has ended")
		}
		status, body, err := get("http://" + e.Admin + path)
		if err != nil || status != want {
			return fmt.Errorf("status %d, %s, error %w", status, body, orNone(err))
		}
		return nil
	})
}

// Health asks the kernel's admin port for a path and returns status and body.
func (e *Engine) Health(path string) (int, string) {
	e.t.Helper()
	status, body, err := get("http://" + e.Admin + path)
	if err != nil {
		e.t.Fatalf("get %s: %v", path, err)
	}
	return status, body
}

var errNone = errors.New("none")

func orNone(err error) error {
	if err == nil {
		return errNone
	}
	return err
}

// admins is a client without connections that outlive a request, so that a program that is restarted is asked anew.
var admins = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func get(url string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := admins.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}
