package attack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/loadtest/rig"
	"github.com/policy-engine/policy-engine/test/process"
)

// Compose says where the services of docker-compose.yaml are on this machine.
type Compose struct {
	Envoy, Upstream, Admin string // HOST:PORT
	Prefix                 string // of the route's paths
	Docker                 string // the program docker
	Cgroups                string // where the cgroups are mounted: /sys/fs/cgroup
}

const (
	// composeTimeout is for containers that were just started.
	composeTimeout = 60 * time.Second
	// dockerTimeout is for one answer of docker's.
	dockerTimeout = 10 * time.Second
)

// RunCompose measures the engine that runs in containers, with the credentials that they have. It starts and ends nothing.
func RunCompose(ctx context.Context, o Options, at Compose) error {
	if err := o.check(); err != nil {
		return err
	}
	c, err := credentials.Load(o.Credentials, o.Clients, o.Clients, time.Now(), nil)
	if err != nil {
		return err
	}
	target, err := netip.ParseAddrPort(at.Envoy)
	if err != nil {
		return fmt.Errorf("read the address of Envoy: %w", err)
	}
	o.Engine.Asked = rig.Engine
	r := rig.At(target, o.Engine, at.Prefix)
	// Containers that were just started, or that see new credentials, need a moment.
	if err := process.Within(composeTimeout, func() error { return errors.Join(r.Verify(ctx, c), ctx.Err()) }); err != nil {
		return fmt.Errorf("ask Envoy at %s: %w\nmake compose starts it, with the keys and tokens of this folder", at.Envoy, err)
	}
	up := &runningUpstream{address: at.Upstream}
	s := &system{
		target: at.Envoy, paths: r.Paths(), identifies: o.Engine.Identifies(), processes: newContainers(ctx, at), count: up.count, description: "docker-compose.yaml, " + o.describe(),
	}
	return measure(ctx, &o, s, c)
}

// containers tells what the services of a compose project use.
type containers struct {
	at     Compose
	groups map[string]string // the cgroup's folder of each service
	why    string            // why that can't be told
}

// newContainers finds the services' cgroups. Where it can't, it says why, and the report is without CPU and memory.
func newContainers(ctx context.Context, at Compose) *containers {
	c := &containers{at: at, groups: make(map[string]string)}
	if err := c.findAll(ctx); err != nil {
		c.why = err.Error()
		c.groups = nil
	}
	return c
}

func (c *containers) findAll(ctx context.Context) error {
	out, err := c.docker(ctx, "ps", "--filter", "label=com.docker.compose.project=policy-engine", "--format", `{{.ID}} {{.Label "com.docker.compose.service"}}`)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		id, service, _ := strings.Cut(strings.TrimSpace(line), " ")
		if service == "" {
			continue
		}
		pid, err := c.docker(ctx, "inspect", "--format", "{{.State.Pid}}", id)
		if err != nil {
			return err
		}
		if c.groups[service], err = c.cgroup(strings.TrimSpace(pid)); err != nil {
			return err
		}
	}
	if len(c.groups) == 0 {
		return errors.New("docker knows no containers of the project policy-engine")
	}
	_, err = c.usage()
	return err
}

func (c *containers) docker(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, c.at.Docker, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return "", fmt.Errorf("docker %s: %w: %s", args[0], err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("docker %s: %w", args[0], err)
	}
	return string(out), nil
}

// cgroup is the folder of the cgroup of a process (cgroups(7), version 2: one line "0::/PATH").
func (c *containers) cgroup(pid string) (string, error) {
	text, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
	if err != nil {
		return "", fmt.Errorf("find a container's cgroup: its processes are not this machine's: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(c.at.Cgroups, path), nil
		}
	}
	return "", fmt.Errorf("find a container's cgroup: process %s has none of version 2", pid)
}

func (c *containers) usage() (map[string]process.Usage, error) {
	if c.groups == nil {
		return nil, nil
	}
	all := make(map[string]process.Usage, len(c.groups)+1)
	for service, dir := range c.groups {
		u, err := cgroupUsage(dir)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", service, err)
		}
		all[service] = u
	}
	var err error
	all[loadProcess], err = process.UsageOf(os.Getpid())
	return all, err
}

// cgroupUsage reads what a cgroup has used: cpu.stat has microseconds; from memory.current, what the kernel can drop at once is taken off, as docker stats does.
func cgroupUsage(dir string) (process.Usage, error) {
	cpu, err := keyed(filepath.Join(dir, "cpu.stat"), "usage_usec")
	if err != nil {
		return process.Usage{}, err
	}
	droppable, err := keyed(filepath.Join(dir, "memory.stat"), "inactive_file")
	if err != nil {
		return process.Usage{}, err
	}
	text, err := os.ReadFile(filepath.Join(dir, "memory.current"))
	if err != nil {
		return process.Usage{}, fmt.Errorf("read a container's memory: %w", err)
	}
	current, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return process.Usage{}, fmt.Errorf("read a container's memory: %w", err)
	}
	return process.Usage{CPU: time.Duration(cpu) * time.Microsecond, RSS: max(current-droppable, 0)}, nil
}

// keyed reads the value of a key in a file of lines "KEY VALUE".
func keyed(file, key string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("read what a container uses: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			return strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("read what a container uses: %s has no %s", file, key)
}

func (c *containers) unavailable() string { return c.why }

// metrics are those of the engine in its container.
func (c *containers) metrics() (process.Metrics, error) {
	status, body, err := process.Get("http://" + c.at.Admin + "/metrics")
	if err != nil {
		return nil, fmt.Errorf("read the metrics: %w", err)
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("read the metrics: status %d", status)
	}
	return process.ParseMetrics(body)
}

// check sees that each container still has its cgroup: it goes with the container.
func (c *containers) check() error {
	for _, service := range slices.Sorted(maps.Keys(c.groups)) {
		if _, err := os.Stat(c.groups[service]); err != nil {
			return fmt.Errorf("service %s has ended: %w", service, err)
		}
	}
	return nil
}
