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
	Proc                   string // where the system tells of processes: /proc
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
		target: at.Envoy, paths: r.Paths(), identifies: o.Engine.Identifies(), processes: newContainers(ctx, at), count: up.count, description: "docker-compose.yaml, " + o.Engine.Describe(),
	}
	return measure(ctx, &o, s, c)
}

// containers tells what the services of a compose project use.
type containers struct {
	at     Compose
	groups map[string]cgroup // of each service
	why    string            // why that can't be told
}

// newContainers finds the services' cgroups. Where it can't, it says why, and the report is without CPU and memory.
func newContainers(ctx context.Context, at Compose) *containers {
	c := &containers{at: at, groups: make(map[string]cgroup)}
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

// cgroup finds the cgroup of a process.
func (c *containers) cgroup(pid string) (cgroup, error) {
	text, err := os.ReadFile(filepath.Join(c.at.Proc, pid, "cgroup"))
	if err != nil {
		return cgroup{}, fmt.Errorf("find a container's cgroup: its processes are not this machine's: %w", err)
	}
	return findCgroup(string(text), c.at.Cgroups)
}

func (c *containers) usage() (map[string]process.Usage, error) {
	if c.groups == nil {
		return nil, nil
	}
	all := make(map[string]process.Usage, len(c.groups)+1)
	for service, group := range c.groups {
		u, err := group.usage()
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", service, err)
		}
		all[service] = u
	}
	var err error
	all[loadProcess], err = process.UsageOf(os.Getpid())
	return all, err
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
		if _, err := os.Stat(c.groups[service].memory); err != nil {
			return fmt.Errorf("service %s has ended: %w", service, err)
		}
	}
	return nil
}
