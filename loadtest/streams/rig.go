package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/test/process"
)

// server is what Envoy asks.
type server string

const (
	noop   server = "noop-grpc"   // answers each message, and does nothing
	engine server = "engine"      // a policy reads every byte; the lean transport
	slower server = "engine-grpc" // the same over grpc-go
)

var servers = []server{noop, engine, slower}

// direction is which body passes by.
type direction string

const (
	upload   direction = "upload"
	download direction = "download"
)

// mode is how Envoy sends a body.
type mode string

const (
	// streamed: Envoy keeps each chunk until it has been answered.
	streamed mode = "streamed"
	// fullDuplex: Envoy keeps nothing, and is given the bytes back.
	fullDuplex mode = "full duplex"
)

// rig is Envoy and what it asks, each a process of its own.
type rig struct {
	target   string // where clients send requests
	started  []*process.Process
	o        options
	mode     mode
	dir      string
	port     map[string]int
	upstream string
}

func start(o options, s server, d direction, m mode, upstream string) (_ *rig, err error) {
	dir, err := os.MkdirTemp("", "streams-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	r := &rig{o: o, mode: m, dir: dir, upstream: upstream, port: map[string]int{}}
	defer func() {
		if err != nil {
			err = r.explain(err)
			r.stop()
		}
	}()
	for _, name := range []string{"listen", "server", "admin"} {
		if r.port[name], err = process.FreePort(); err != nil {
			return nil, err
		}
	}
	r.target = address(r.port["listen"])
	if s == noop {
		return r, errors.Join(r.startNoop(), r.startEnvoy(noopKernel, d))
	}
	return r, errors.Join(r.startEngine(s, d), r.startEnvoy(kernelConfig(s, d), ""))
}

// explain adds what the processes have said last.
func (r *rig) explain(err error) error {
	for _, p := range r.started {
		err = fmt.Errorf("%w\noutput of %s:\n%s", err, p.Name, process.Tail(p.Output(), 2000))
	}
	return err
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (r *rig) stop() {
	for i := len(r.started) - 1; i >= 0; i-- {
		r.started[i].Stop(3 * time.Second)
	}
	_ = os.RemoveAll(r.dir)
}

func (r *rig) run(name, program string, args ...string) error {
	p, err := process.Start(name, program, r.env(), args...)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	r.started = append(r.started, p)
	return nil
}

// env is what the configuration files are filled with.
func (r *rig) env() []string {
	return []string{"RUN_DIR=" + r.dir, fmt.Sprint("PORT_KERNEL=", r.port["server"]), fmt.Sprint("PORT_ADMIN=", r.port["admin"]), "TESTWORKER_SUFFIX="}
}

func (r *rig) startNoop() error {
	at, answers := address(r.port["server"]), "-bodies"
	if r.mode == fullDuplex {
		answers = "-full-duplex"
	}
	if err := r.run("noop-grpc", filepath.Join(r.o.bench, "noop-grpc"), "-listen", at, answers); err != nil {
		return err
	}
	return listens(at)
}

const (
	kernelServer = `policy_kernel:
  server: {address: 127.0.0.1, port: "${PORT_KERNEL}", transport: %s}
  admin: {address: 127.0.0.1, port: "${PORT_ADMIN}"}
`
	workers = `  workers: [{name: worker, socket_path: "${RUN_DIR}/worker.sock", timeout: 5s}]
  route_policies: [{route_name: stream, %s: {policy_chain: [{policy: sum}]}}]
`
	workerConfig = `policy_worker:
  name: worker
  socket_path: ${RUN_DIR}/worker.sock
`
)

// noopKernel has no policies: Envoy's configuration says itself what the server gets.
var noopKernel = fmt.Sprintf(kernelServer, "fast") + "  route_policies: [{route_name: stream}]\n"

func kernelConfig(s server, d direction) string {
	transport, flow := "fast", "request_flow"
	if s == slower {
		transport = "grpc"
	}
	if d == download {
		flow = "response_flow"
	}
	return fmt.Sprintf(kernelServer, transport) + fmt.Sprintf(workers, flow)
}

func (r *rig) write(name, text string) (string, error) {
	file := filepath.Join(r.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return file, nil
}

func (r *rig) startEngine(s server, d direction) error {
	kernel, err := r.write("kernel.yaml", kernelConfig(s, d))
	if err != nil {
		return err
	}
	worker, err := r.write("worker.yaml", workerConfig)
	if err != nil {
		return err
	}
	if err := r.run("worker", filepath.Join(r.o.bench, "testworker"), "--config", worker); err != nil {
		return err
	}
	if err := r.run("kernel", filepath.Join(r.o.bin, "policy-kernel"), "--config", kernel); err != nil {
		return err
	}
	ready := fmt.Sprintf("http://%s/health/ready", address(r.port["admin"]))
	return process.Within(startTimeout, func() error {
		status, body, err := process.Get(ready)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%s says %d: %s", ready, status, body)
		}
		return err
	})
}

// startTimeout bounds the start of a program.
const startTimeout = 30 * time.Second

func listens(at string) error {
	return process.Within(startTimeout, func() error {
		conn, err := net.DialTimeout("tcp", at, time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// startEnvoy starts Envoy as policyctl sets it up. d is the body that Envoy sends unasked, if any.
func (r *rig) startEnvoy(kernel string, d direction) error {
	file, err := r.write("envoy-kernel.yaml", kernel)
	if err != nil {
		return err
	}
	args := []string{"envoy", "--kernel", file, "--listen", r.target, "--admin", "", "--upstream", r.upstream, "--route", "stream=/"}
	if r.mode == fullDuplex && d == "" {
		args = append(args, "--full-duplex", "stream")
	}
	ctl := exec.Command(filepath.Join(r.o.bin, "policyctl"), args...)
	ctl.Env = append(os.Environ(), r.env()...)
	out, err := ctl.CombinedOutput()
	if err != nil {
		return fmt.Errorf("policyctl envoy: %w: %s", err, out)
	}
	text, err := sendBodies(string(out), d, r.mode)
	if err != nil {
		return err
	}
	config, err := r.write("envoy.yaml", text)
	if err != nil {
		return err
	}
	if err := r.run("envoy", r.o.envoy, "--config-path", config, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warn"); err != nil {
		return err
	}
	return listens(r.target)
}

// sendBodies has Envoy send a body, as the engine asks it to for each request, or as policyctl sets it up in full duplex.
func sendBodies(text string, d direction, m mode) (string, error) {
	before, after := "", ""
	switch d {
	case "":
		return text, nil
	case upload:
		before, after = "request_header_mode: SEND", "request_header_mode: SEND, request_body_mode: STREAMED"
	case download:
		before, after = "response_header_mode: SKIP", "response_header_mode: SEND, response_body_mode: STREAMED"
	}
	if m == fullDuplex {
		after = strings.Replace(after, "STREAMED", "FULL_DUPLEX_STREAMED", 1)
		trailers := map[direction]string{upload: "request_trailer_mode: S", download: "response_trailer_mode: S"}[d]
		var err error
		if text, err = replaceOne(text, trailers+"KIP", trailers+"END"); err != nil {
			return "", err
		}
	}
	i := strings.Index(text, before)
	if i < 0 {
		return replaceOne(text, before, after)
	}
	indent := text[strings.LastIndexByte(text[:i], '\n'):i]
	return replaceOne(text, before, strings.ReplaceAll(after, ", ", indent))
}

// replaceOne replaces what has to be there once.
func replaceOne(text, before, after string) (string, error) {
	if n := strings.Count(text, before); n != 1 {
		return "", fmt.Errorf("the configuration of Envoy has %q %d times, want 1", before, n)
	}
	return strings.Replace(text, before, after, 1), nil
}
