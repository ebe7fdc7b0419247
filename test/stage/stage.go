package stage

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/policy-engine/policy-engine/test/burst"
	"github.com/policy-engine/policy-engine/test/process"
	"github.com/policy-engine/policy-engine/test/proof"
	"github.com/policy-engine/policy-engine/test/traffic"
)

// Spec says what to start.
type Spec struct {
	// Replicas of the worker: 1 or 2. Kernels behind Envoy: 1 or 2.
	Replicas, Kernels int
	// Transport is the kernel's.
	Transport string
	// Kernel is more of the kernel's configuration, indented as below policy_kernel. Server and Admin are more keys of
	// those two sections, as "key: value, key: value". Worker is more lines of the worker's entry. Routes are more routes, indented as below route_policies.
	Kernel, Server, Admin, Worker, Routes string
	// Wired puts a wire between Envoy and the kernel. Between is given the address that Envoy would have used and returns another one to use.
	Wired   bool
	Between func(kernel string) (string, error)
	// Bursts answers the requests that have burst.Header, over HTTP/2. Start sets Checked, by the proofs of the chain.
	Bursts *burst.Upstream
	// EditEnvoy changes the configuration that policyctl prints.
	EditEnvoy func(string) string
	// Start bounds the time until all is ready; a minute if it is 0.
	Start time.Duration
}

// Stage is what was started.
type Stage struct {
	Ledger *traffic.Ledger
	Issuer *Issuer
	// Wire is between Envoy and the kernel, if it is wanted.
	Wire *Wire
	// Etc, Run and Log are the engine's folders, of configuration, sockets and logs.
	Etc, Run, Log string

	spec       Spec
	dir, bin   string
	programs   *Programs
	upstream   *traffic.Upstream
	supervisor *process.Process
	envoy      *process.Process
	ports      struct {
		listen, envoyAdmin int
		kernels, admins    []int
	}
	key proof.Key
}

// Start starts all of it and returns when it is ready.
func Start(p *Programs, spec Spec) (*Stage, error) {
	if spec.Start == 0 {
		spec.Start = time.Minute
	}
	s := &Stage{spec: spec, programs: p}
	if err := s.start(); err != nil {
		err = errors.Join(err, errors.New(s.Logs(2000)))
		s.Close()
		return nil, fmt.Errorf("start the engine: %w", err)
	}
	return s, nil
}

func (s *Stage) start() (err error) {
	// A socket's path has at most 107 bytes (unix(7)), so the folder is not a deep one.
	if s.dir, err = os.MkdirTemp("", "stage-"); err != nil {
		return err
	}
	for name, path := range map[string]*string{"bin": &s.bin, "etc": &s.Etc, "run": &s.Run, "log": &s.Log} {
		*path = filepath.Join(s.dir, name)
		if err := os.Mkdir(*path, 0o700); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(s.Run, "workers"), 0o700); err != nil {
		return err
	}
	if err := s.choosePorts(); err != nil {
		return err
	}
	if s.Issuer, err = startIssuer(); err != nil {
		return err
	}
	if s.key, err = s.configure(s.programs); err != nil {
		return err
	}
	s.Ledger = traffic.NewLedger(s.key)
	if s.upstream, err = traffic.StartUpstream(s.Ledger, s.bursts()); err != nil {
		return err
	}
	if err := s.StartEngine(); err != nil {
		return err
	}
	return s.StartEnvoy()
}

// bursts finds the requests of bursts; it is nil without such.
func (s *Stage) bursts() func(*http.Request) http.Handler {
	b := s.spec.Bursts
	if b == nil {
		return nil
	}
	b.Checked = func(r *http.Request) bool {
		return s.key.Proves(r.Header.Get(proof.IDHeader), r.Header.Get(proof.Header))
	}
	return func(r *http.Request) http.Handler {
		if r.Header.Get(burst.Header) == "" {
			return nil
		}
		return b
	}
}

func (s *Stage) choosePorts() error {
	ports := []*int{&s.ports.listen, &s.ports.envoyAdmin}
	n := max(s.spec.Kernels, 1)
	s.ports.kernels, s.ports.admins = make([]int, n), make([]int, n)
	for i := range n {
		ports = append(ports, &s.ports.kernels[i], &s.ports.admins[i])
	}
	for _, port := range ports {
		var err error
		if *port, err = process.FreePort(); err != nil {
			return err
		}
	}
	return nil
}

// StartEngine starts kernel and workers under supervisord, with the configuration that the container has.
func (s *Stage) StartEngine() error {
	env := []string{
		"POLICY_ENGINE_BIN_DIR=" + s.bin, "POLICY_ENGINE_ETC_DIR=" + s.Etc, "POLICY_ENGINE_RUN_DIR=" + s.Run, "POLICY_ENGINE_LOG_DIR=" + s.Log,
		"POLICY_ENGINE_WORKER_2=" + strconv.FormatBool(s.spec.Replicas > 1), "POLICY_ENGINE_INCLUDE=" + filepath.Join(s.Etc, "more.conf"),
		"PYTHONDONTWRITEBYTECODE=1",
	}
	// It has programs of its own, which it has to end when this process does.
	supervisor, err := process.StartParent("supervisord", s.programs.Supervisor[0], env, s.programs.Supervisor[1:]...)
	if err != nil {
		return err
	}
	s.supervisor = supervisor
	return process.Within(s.spec.Start, func() error {
		if !supervisor.Running() {
			return errors.New("supervisord has ended")
		}
		return s.Whole()
	})
}

// StartEnvoy starts Envoy, as `policyctl envoy` configures it.
func (s *Stage) StartEnvoy() error {
	engine := s.Kernel(0)
	for i := 1; i < s.Kernels(); i++ {
		engine += "," + s.Kernel(i)
	}
	if s.spec.Wired {
		if s.Wire == nil {
			var err error
			if s.Wire, err = StartWire(engine); err != nil {
				return err
			}
		}
		engine = s.Wire.Address
	}
	if s.spec.Between != nil {
		var err error
		if engine, err = s.spec.Between(engine); err != nil {
			return err
		}
	}
	text, err := s.envoyConfig(s.programs, engine)
	if err != nil {
		return err
	}
	file := filepath.Join(s.dir, "envoy.yaml")
	if err := writeFile(file, text); err != nil {
		return err
	}
	s.envoy, err = process.Start("envoy", s.programs.Envoy, nil, "--config-path", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
	if err != nil {
		return err
	}
	return process.Within(s.spec.Start, func() error { return wantOK("http://" + address(s.ports.envoyAdmin) + "/ready") })
}

// KillEnvoy ends Envoy at once. StartEnvoy starts it again.
func (s *Stage) KillEnvoy() { s.envoy.Kill() }

// Target is where clients send requests.
func (s *Stage) Target() string { return address(s.ports.listen) }

// Admin is the address of a kernel's admin listener; the first is 0.
func (s *Stage) Admin(kernel int) string { return address(s.ports.admins[kernel]) }

// Kernel is the address where a kernel listens for Envoy.
func (s *Stage) Kernel(i int) string { return address(s.ports.kernels[i]) }

// Transport is the kernel's transport.
func (s *Stage) Transport() string { return s.spec.Transport }

// Bursts is the upstream of bursts; nil without such.
func (s *Stage) Bursts() *burst.Upstream { return s.spec.Bursts }

// Replicas is how many replicas of the worker there are, Kernels how many kernels.
func (s *Stage) Replicas() int { return s.spec.Replicas }

// Kernels is how many kernels there are.
func (s *Stage) Kernels() int { return len(s.ports.kernels) }

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// Close ends all of it.
func (s *Stage) Close() {
	if s.envoy != nil {
		s.envoy.Kill()
	}
	if s.supervisor != nil {
		s.resume()
		s.supervisor.Stop(30 * time.Second)
	}
	if s.Wire != nil {
		s.Wire.Close()
	}
	if s.upstream != nil {
		s.upstream.Close()
	}
	if s.Issuer != nil {
		s.Issuer.close()
	}
	_ = os.RemoveAll(s.dir)
}

// Logs are the ends of what the programs have written.
func (s *Stage) Logs(size int) string {
	text := ""
	files, _ := filepath.Glob(filepath.Join(s.Log, "*.log"))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		text += fmt.Sprintf("== %s\n%s\n", filepath.Base(file), process.Tail(string(b), size))
	}
	for _, p := range []*process.Process{s.supervisor, s.envoy} {
		if p != nil {
			text += fmt.Sprintf("== %s\n%s\n", p.Name, process.Tail(p.Output(), size))
		}
	}
	return text
}
