package attack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/test/process"
)

// cgroup is where the kernel tells what a container uses (cgroups(7)): one folder in version 2, one for each controller in version 1.
type cgroup struct {
	cpu, memory string
	v1          bool
}

// findCgroup reads /proc/PID/cgroup, lines of the form ID:CONTROLLERS:PATH. Version 2 has one line, "0::PATH"; where both are mounted, the controllers are those of version 1.
func findCgroup(text, mounted string) (cgroup, error) {
	var unified, cpu, memory string
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		controllers := strings.Split(fields[1], ",")
		switch {
		case fields[1] == "":
			unified = filepath.Join(mounted, fields[2])
		case slices.Contains(controllers, "memory"):
			memory = filepath.Join(mounted, fields[1], fields[2])
		case slices.Contains(controllers, "cpuacct"):
			cpu = filepath.Join(mounted, fields[1], fields[2])
		}
	}
	switch {
	case cpu != "" && memory != "":
		return cgroup{cpu: cpu, memory: memory, v1: true}, nil
	case unified != "" && memory == "":
		return cgroup{cpu: unified, memory: unified}, nil
	}
	return cgroup{}, errors.New("find a container's cgroup: there is none of version 2, and none of version 1 with the controllers cpuacct and memory")
}

// usage reads what the cgroup has used. From the memory, what the kernel can drop at once is taken off, as docker stats does.
func (g cgroup) usage() (process.Usage, error) {
	cpu, memory, droppable := g.v2CPU, "memory.current", "inactive_file"
	if g.v1 {
		cpu, memory, droppable = g.v1CPU, "memory.usage_in_bytes", "total_inactive_file"
	}
	used, err := cpu()
	if err != nil {
		return process.Usage{}, err
	}
	current, err := number(filepath.Join(g.memory, memory))
	if err != nil {
		return process.Usage{}, err
	}
	dropped, err := keyed(filepath.Join(g.memory, "memory.stat"), droppable)
	if err != nil {
		return process.Usage{}, err
	}
	return process.Usage{CPU: used, RSS: max(current-dropped, 0)}, nil
}

func (g cgroup) v1CPU() (time.Duration, error) {
	ns, err := number(filepath.Join(g.cpu, "cpuacct.usage"))
	return time.Duration(ns), err
}

func (g cgroup) v2CPU() (time.Duration, error) {
	us, err := keyed(filepath.Join(g.cpu, "cpu.stat"), "usage_usec")
	return time.Duration(us) * time.Microsecond, err
}

// number reads a file that is a number.
func number(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("read what a container uses: %w", err)
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
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
