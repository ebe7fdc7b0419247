package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/policy-engine/policy-engine/test/process"
)

// ask runs a script in the container and reads the JSON that it prints.
func ask[T any](ctx context.Context, c *container, script string, args ...string) (T, error) {
	var v T
	out, err := c.python(ctx, script, args...)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return v, fmt.Errorf("read what the container says: %w: %q", err, out)
	}
	return v, nil
}

// ours are the files of SPEC 2.3, and what supervises them.
var ours = []string{
	"/etc/policy-engine/kernel-config.yaml", "/etc/policy-engine/worker-config-1.yaml", "/etc/policy-engine/worker-config-2.yaml",
	"/etc/supervisord.conf",
	"/usr/local/bin/policy-kernel", "/usr/local/bin/policy-worker-1", "/usr/local/bin/policy-worker-2",
	"/usr/local/lib/policy-engine/supervise.py",
}

// files looks where our files may be: below /usr/local, which bases leave empty, in the configuration's folder, and for our names anywhere.
func (c *container) files(ctx context.Context) error {
	found, err := ask[[]string](ctx, c, `
import json, os
found = []
for top, dirs, files in os.walk("/"):
    if top == "/":
        dirs[:] = [d for d in dirs if d not in ("proc", "sys", "dev")]
    if top == "/var/run" or top == "/run":
        dirs[:] = []
    for f in files:
        path = os.path.join(top, f)
        if path.startswith("/usr/local/") or path.startswith("/etc/policy-engine/") or path.startswith("/etc/supervisord") or (
                ("policy" in f) and ("kernel" in f or "worker" in f or "engine" in f or f == "policyctl") and not path.startswith("/var/log/")):
            found.append(path)
print(json.dumps(sorted(found)))
`)
	if err != nil {
		return err
	}
	if !slices.Equal(found, ours) {
		return fmt.Errorf("files %q, want %q", found, ours)
	}
	folders, err := ask[map[string]string](ctx, c, `
import json, os, stat
print(json.dumps({p: "%o %d" % (stat.S_IMODE(os.stat(p).st_mode), os.stat(p).st_uid)
    for p in ("/var/run/policy-engine", "/var/run/policy-engine/workers", "/var/log/policy-engine", "/etc/policy-engine")}))
`)
	if err != nil {
		return err
	}
	want := map[string]string{"/var/run/policy-engine": "700 1000", "/var/run/policy-engine/workers": "700 1000", "/var/log/policy-engine": "700 1000", "/etc/policy-engine": "755 0"}
	if !maps.Equal(folders, want) {
		return fmt.Errorf("folders, with mode and owner: %v, want %v", folders, want)
	}
	return nil
}

func (c *container) noSetuid(ctx context.Context) error {
	found, err := ask[[]string](ctx, c, `
import json, os, stat
found = []
for top, dirs, files in os.walk("/"):
    if top == "/":
        dirs[:] = [d for d in dirs if d not in ("proc", "sys", "dev")]
    for f in files:
        try:
            mode = os.lstat(os.path.join(top, f)).st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            found.append(os.path.join(top, f))
print(json.dumps(found))
`)
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("setuid or setgid: %q", found)
	}
	return err
}

// processes: each of them runs as the user, without capabilities and with no way to any.
func (c *container) processes(ctx context.Context) (string, error) {
	found, err := ask[[]map[string]string](ctx, c, `
import json, os
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        lines = open("/proc/%s/status" % pid).read().splitlines()
    except OSError:
        continue
    found.append(dict(line.split(":\t", 1) for line in lines if ":\t" in line))
print(json.dumps(found))
`)
	if err != nil {
		return "", err
	}
	names := make(map[string]bool)
	for _, p := range found {
		names[p["Name"]] = true
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			if strings.Trim(p[set], "0") != "" {
				return "", fmt.Errorf("%s has capabilities: %s is %s", p["Name"], set, p[set])
			}
		}
		if p["NoNewPrivs"] != "1" || p["Uid"] != "1000\t1000\t1000\t1000" || p["Gid"] != "1000\t1000\t1000\t1000" {
			return "", fmt.Errorf("%s: NoNewPrivs %s, Uid %s, Gid %s", p["Name"], p["NoNewPrivs"], p["Uid"], p["Gid"])
		}
	}
	for _, want := range []string{"policy-kernel", "policy-worker-1", "policy-worker-2"} {
		if !names[want] {
			return "", fmt.Errorf("%s does not run, only %v", want, slices.Sorted(maps.Keys(names)))
		}
	}
	return fmt.Sprintf("%d processes: user 1000, CapEff 0, NoNewPrivs 1", len(found)), nil
}

// noZombies makes an orphan that ends, and looks for processes that have ended and that nobody has taken in.
func (c *container) noZombies(ctx context.Context) error {
	if _, err := c.engine.command(ctx, "exec", c.name, "sh", "-c", "(sleep 0.1 &)"); err != nil {
		return err
	}
	return process.Within(readyTimeout, func() error {
		found, err := ask[[]string](ctx, c, `
import json, os
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        stat = open("/proc/%s/stat" % pid).read()
    except OSError:
        continue
    name, state = stat[stat.index("(") + 1:stat.rindex(")")], stat[stat.rindex(")") + 2]
    if state == "Z" or name == "sleep":
        found.append(name + " " + state)
print(json.dumps(found))
`)
		if err == nil && len(found) > 0 {
			err = fmt.Errorf("left: %q", found)
		}
		return err
	})
}

// sockets are the workers', and nobody else's.
func (c *container) sockets(ctx context.Context) error {
	got, err := ask[map[string]string](ctx, c, `
import json, os, pwd, stat
found = {}
for top, dirs, files in os.walk("/var/run/policy-engine"):
    for f in files:
        path = os.path.join(top, f)
        s = os.lstat(path)
        if stat.S_ISSOCK(s.st_mode):
            found[path] = "%o %d %s" % (stat.S_IMODE(s.st_mode), s.st_uid, pwd.getpwuid(s.st_uid).pw_name)
print(json.dumps(found))
`)
	if err != nil {
		return err
	}
	want := map[string]string{}
	for _, name := range []string{"worker-1", "worker-2"} {
		want["/var/run/policy-engine/workers/"+name+".sock"] = "600 1000 policy-engine"
	}
	if !maps.Equal(got, want) {
		return fmt.Errorf("sockets %v, want %v", got, want)
	}
	return nil
}

// readOnly tries to write. Where something must be written, it can be.
func (c *container) readOnly(ctx context.Context) error {
	got, err := ask[map[string]bool](ctx, c, `
import json, os
written = {}
for folder in ("/", "/etc", "/etc/policy-engine", "/usr/local/bin", "/usr/local/lib/policy-engine", "/home", "/var/run/policy-engine", "/var/log/policy-engine"):
    path = os.path.join(folder, "probe")
    try:
        open(path, "w").close()
        os.remove(path)
        written[folder] = True
    except OSError:
        written[folder] = False
written["read-only root"] = bool(os.statvfs("/").f_flag & os.ST_RDONLY)
print(json.dumps(written))
`)
	if err != nil {
		return err
	}
	want := map[string]bool{
		"/": false, "/etc": false, "/etc/policy-engine": false, "/usr/local/bin": false, "/usr/local/lib/policy-engine": false, "/home": false,
		"/var/run/policy-engine": true, "/var/log/policy-engine": true, "read-only root": true,
	}
	if !maps.Equal(got, want) {
		return fmt.Errorf("written: %v, want %v", got, want)
	}
	return nil
}

// limits are read back from the engine, from the cgroup, and from the programs, which divide the memory among themselves.
func (c *container) limits(ctx context.Context, processes int) (string, error) {
	const memory, cpus = 1 << 30, 2
	set, err := c.inspect(ctx, "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}")
	if want := fmt.Sprintf("%d %d", memory, int64(cpus*1e9)); err != nil || set != want {
		return "", fmt.Errorf("the engine has limits %q, want %q, error %w", set, want, err)
	}
	group, err := ask[[]float64](ctx, c, `
import json
def read(*files):
    for f in files:
        try:
            return open("/sys/fs/cgroup/" + f).read().split()
        except OSError:
            pass
memory = int(read("memory.max", "memory/memory.limit_in_bytes")[0])
cpu = read("cpu.max")
if cpu is None:
    cpu = [read("cpu/cpu.cfs_quota_us", "cpu,cpuacct/cpu.cfs_quota_us")[0], read("cpu/cpu.cfs_period_us", "cpu,cpuacct/cpu.cfs_period_us")[0]]
print(json.dumps([memory, int(cpu[0]) / int(cpu[1])]))
`)
	if err != nil || len(group) != 2 || group[0] != memory || group[1] != cpus {
		return "", fmt.Errorf("the cgroup has memory and processors %v, want %d and %d, error %w", group, memory, cpus, err)
	}
	status, text, err := process.Get(c.url("/metrics"))
	if err != nil || status != 200 {
		return "", fmt.Errorf("read the metrics: status %d, error %w", status, err)
	}
	metrics, err := process.ParseMetrics(text)
	if err != nil {
		return "", err
	}
	var sum, n float64
	for name, value := range metrics {
		if strings.HasPrefix(name, "go_memlimit_bytes") {
			sum += value
			n++
		}
	}
	if int(n) != processes || sum > 0.9*memory || sum < 0.85*memory {
		return "", fmt.Errorf("%v processes have limits of %.0f bytes together, want %d and at most 90 %% of %d", n, sum, processes, memory)
	}
	return fmt.Sprintf("1 GiB, 2 CPUs; %d processes with %.1f %% of the memory together", processes, sum/memory*100), nil
}
