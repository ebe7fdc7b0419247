package attack

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/rig"
	"github.com/policy-engine/policy-engine/loadtest/upstream"
	"github.com/policy-engine/policy-engine/test/process"
)

// loadProcess is this process, which makes the load; upstreamProcess gets it in the end.
const (
	loadProcess     = "load"
	upstreamProcess = "upstream"
	envoyProcess    = "envoy"
	redisProcess    = "redis"
)

// processes tells what each process of a system uses, and what its engine counts.
type processes interface {
	// usage is empty where it can't be told; unavailable then says why.
	usage() (map[string]process.Usage, error)
	unavailable() string
	metrics() (process.Metrics, error)
	check() error
}

// local is a system on this machine, started by this process.
type local struct {
	rig      *rig.Rig
	upstream *runningUpstream
}

func (l *local) usage() (map[string]process.Usage, error) {
	all, err := l.rig.Usage()
	if err != nil {
		return nil, err
	}
	if all[upstreamProcess], err = process.UsageOf(l.upstream.process.PID()); err != nil {
		return nil, err
	}
	all[loadProcess], err = process.UsageOf(os.Getpid())
	return all, err
}

func (l *local) unavailable() string               { return "" }
func (l *local) metrics() (process.Metrics, error) { return l.rig.Metrics() }

func (l *local) check() error {
	if !l.upstream.process.Running() {
		return fmt.Errorf("the upstream has ended: %s", l.upstream.process.End())
	}
	return l.rig.Check()
}

// runningUpstream is an upstream in a process of its own.
type runningUpstream struct {
	address string
	process *process.Process
}

const upstreamTimeout = 10 * time.Second

func startUpstream(p rig.Programs, identifies bool) (*runningUpstream, error) {
	port, err := process.FreePort()
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	started, err := process.Start(upstreamProcess, filepath.Join(p.Bench, "loadtest"), nil, "upstream", "-listen", address, "-identity="+strconv.FormatBool(identifies))
	if err != nil {
		return nil, err
	}
	u := &runningUpstream{address: address, process: started}
	err = process.Within(upstreamTimeout, func() error {
		_, _, _, err := u.count()
		return err
	})
	if err != nil {
		started.Kill()
		return nil, fmt.Errorf("start the upstream: %w\n%s", err, started.Output())
	}
	return u, nil
}

// count asks the upstream what it has seen.
func (u *runningUpstream) count() (right, wrong uint64, first string, err error) {
	status, body, err := process.Get("http://" + u.address + upstream.CountPath)
	if err != nil {
		return 0, 0, "", fmt.Errorf("ask the upstream what it has seen: %w", err)
	}
	var c upstream.Count
	if err := json.Unmarshal([]byte(body), &c); err != nil || status != http.StatusOK {
		return 0, 0, "", fmt.Errorf("ask the upstream what it has seen: status %d, %.200q, %w", status, body, err)
	}
	return c.Right, c.Wrong, c.First, nil
}
