package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/policy-engine/policy-engine/test/process"
)

// mustNotArrive marks requests that policies have to refuse.
const mustNotArrive = "X-Must-Not-Arrive"

// upstream remembers what came to it unchecked.
type upstream struct {
	listener net.Listener
	server   *http.Server

	mu        sync.Mutex
	arrived   int
	unchecked []string
}

func startUpstream() (*upstream, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &upstream{listener: l}
	u.server = &http.Server{Handler: u, ReadHeaderTimeout: time.Minute}
	go func() { _ = u.server.Serve(l) }()
	return u, nil
}

// ServeHTTP answers with what came. Only the engine can have set who calls: Envoy gives the upstream nothing of the client's own that policies have not seen.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, err := io.Copy(io.Discard, r.Body)
	problem := r.Header.Get(mustNotArrive)
	user, tenant := r.Header.Get("X-User-Id"), r.Header.Get("X-Tenant")
	switch path := r.URL.Path; {
	case strings.HasPrefix(path, "/orders") && user != "alice" && user != "bob",
		strings.HasPrefix(path, "/accounts") && user != "alice",
		strings.HasPrefix(path, "/custom") && (user != "alice" || tenant != "acme"):
		problem = fmt.Sprintf("%s of user %q, tenant %q", path, user, tenant)
	}
	u.mu.Lock()
	u.arrived++
	if problem != "" && err == nil {
		u.unchecked = append(u.unchecked, problem)
	}
	u.mu.Unlock()
	_ = json.NewEncoder(w).Encode(r.Header)
}

// verdict is an error if a request came unchecked since the last time, and the number of those that came.
func (u *upstream) verdict() (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	arrived, unchecked := u.arrived, u.unchecked
	u.arrived, u.unchecked = 0, nil
	if len(unchecked) > 0 {
		return arrived, fmt.Errorf("%d requests reached the upstream unchecked: %q", len(unchecked), unchecked[:min(len(unchecked), 5)])
	}
	return arrived, nil
}

// rig is a container with Envoy and an upstream around it.
type rig struct {
	container *container
	upstream  *upstream
	envoy     *process.Process
	address   string // of Envoy
	client    *http.Client
}

// startRig starts Envoy with what policyctl prints for the kernel's configuration, and further arguments.
func startRig(ctx context.Context, c *container, kernelFile, dir string, envoyArgs ...string) (*rig, error) {
	up, err := startUpstream()
	if err != nil {
		return nil, err
	}
	r := &rig{container: c, upstream: up, client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	port, err := process.FreePort()
	if err != nil {
		return nil, err
	}
	r.address = "127.0.0.1:" + strconv.Itoa(port)
	args := append([]string{
		"envoy", "--config", kernelFile, "--listen", r.address, "--admin", "",
		"--engine", "127.0.0.1:" + strconv.Itoa(c.kernel), "--upstream", up.listener.Addr().String(),
	}, envoyArgs...)
	policyctl := exec.CommandContext(ctx, "bin/policyctl", args...)
	policyctl.Env = append(os.Environ(), "PORT_KERNEL="+strconv.Itoa(c.kernel), "PORT_ADMIN="+strconv.Itoa(c.admin))
	policyctl.Stderr = os.Stderr
	text, err := policyctl.Output()
	if err != nil {
		return nil, fmt.Errorf("make Envoy's configuration: %w", err)
	}
	file := filepath.Join(dir, c.name+"-envoy.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	envoy := os.Getenv("ENVOY")
	if envoy == "" {
		return nil, errors.New("ENVOY names no program; make container-test fetches Envoy and sets it")
	}
	if r.envoy, err = process.Start("envoy", envoy, nil, "--config-path", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warn"); err != nil {
		return nil, err
	}
	return r, process.Within(readyTimeout, func() error {
		conn, err := net.DialTimeout("tcp", r.address, time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
}

func (r *rig) stop() {
	if r.envoy != nil {
		r.envoy.Kill()
	}
	_ = r.upstream.server.Close()
}

// answer is what a client gets.
type answer struct {
	status  int
	header  http.Header
	arrived http.Header // what the upstream got, if it did
	body    string
}

// send sends one request; a header is "name: value".
func (r *rig) send(ctx context.Context, method, path, body string, headers ...string) (*answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+r.address+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Add(name, value)
	}
	response, err := r.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	a := &answer{status: response.StatusCode, header: response.Header, body: string(text)}
	_ = json.Unmarshal(text, &a.arrived)
	return a, nil
}
