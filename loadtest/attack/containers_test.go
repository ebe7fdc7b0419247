package attack

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/process"
)

// group is a machine with cgroups of some version.
type group struct {
	lines string            // of /proc/PID/cgroup
	files map[string]string // below the mount
	cpu   string            // the file with the figures of CPU
	mem   string            // and of memory
}

var groups = map[string]group{
	"version 2": {
		"0::/docker/a\n",
		map[string]string{"docker/a/cpu.stat": "usage_usec 2500000\nuser_usec 1\n", "docker/a/memory.current": "30000000\n", "docker/a/memory.stat": "anon 1\ninactive_file 10000000\n"},
		"docker/a/cpu.stat", "docker/a/memory.current",
	},
	"version 1": {
		"12:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n1:name=systemd:/docker/a\n",
		map[string]string{"cpu,cpuacct/docker/a/cpuacct.usage": "2500000000\n", "memory/docker/a/memory.usage_in_bytes": "30000000\n", "memory/docker/a/memory.stat": "inactive_file 1\ntotal_inactive_file 10000000\n"},
		"cpu,cpuacct/docker/a/cpuacct.usage", "memory/docker/a/memory.usage_in_bytes",
	},
	"hybrid": {
		"4:memory:/docker/a\n2:cpuacct:/docker/a\n1:cpu:/docker/a\n0::/docker/a\n",
		map[string]string{"cpuacct/docker/a/cpuacct.usage": "2500000000\n", "memory/docker/a/memory.usage_in_bytes": "30000000\n", "memory/docker/a/memory.stat": "total_inactive_file 10000000\n"},
		"cpuacct/docker/a/cpuacct.usage", "memory/docker/a/memory.usage_in_bytes",
	},
}

// TestContainers: what services use is read from their cgroups, which docker names. Whatever is amiss is said, and never a figure.
func TestContainers(t *testing.T) {
	for version, g := range groups {
		for name, tt := range map[string]struct {
			docker string // what it does
			spoil  string // a file that is missing
			lines  string // of /proc/PID/cgroup, if they are others
			says   string // why the figures are not available
		}{
			"two services":        {`[ $1 = ps ] && printf 'aaa engine\nbbb envoy\n' || echo 7`, "", "", ""},
			"no engine":           {`echo "Cannot connect to the Docker daemon" >&2; exit 1`, "", "", "Cannot connect"},
			"no containers":       {`:`, "", "", "no containers of the project"},
			"another machine's":   {`[ $1 = ps ] && echo 'aaa engine' || echo 8`, "", "", "not this machine's"},
			"inspect fails":       {`[ $1 = ps ] && echo 'aaa engine' || exit 1`, "", "", "docker inspect"},
			"no figures of CPU":   {`[ $1 = ps ] && echo 'aaa engine' || echo 7`, g.cpu, "", filepath.Base(g.cpu)},
			"no figure of memory": {`[ $1 = ps ] && echo 'aaa engine' || echo 7`, g.mem, "", filepath.Base(g.mem)},
			"no cgroup":           {`[ $1 = ps ] && echo 'aaa engine' || echo 7`, "", "1:name=systemd:/\nodd\n", "none of version 2"},
			"half of version 1":   {`[ $1 = ps ] && echo 'aaa engine' || echo 7`, "", "4:memory:/\n0::/\n", "none of version 1"},
		} {
			t.Run(version+"/"+name, func(t *testing.T) {
				dir := t.TempDir()
				write := func(path, text string, mode os.FileMode) {
					t.Helper()
					if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(filepath.Join(dir, path), []byte(text), mode); err != nil {
						t.Fatal(err)
					}
				}
				for file, text := range g.files {
					if file != tt.spoil {
						write("cgroup/"+file, text, 0o644)
					}
				}
				write("proc/7/cgroup", cmp.Or(tt.lines, g.lines), 0o644)
				write("docker", "#!/bin/sh\n"+tt.docker+"\n", 0o755)
				c := newContainers(t.Context(), Compose{Docker: filepath.Join(dir, "docker"), Cgroups: filepath.Join(dir, "cgroup"), Proc: filepath.Join(dir, "proc")})
				usage, err := c.usage()
				if err != nil {
					t.Fatal(err)
				}
				if why := c.unavailable(); (tt.says == "") != (why == "") || !strings.Contains(why, tt.says) {
					t.Fatalf("it says %q, want %q", why, tt.says)
				}
				if tt.says != "" {
					if len(usage) != 0 || c.check() != nil {
						t.Errorf("figures all the same: %v, %v", usage, c.check())
					}
					return
				}
				want := process.Usage{CPU: 2500 * time.Millisecond, RSS: 20_000_000}
				if len(usage) != 3 || usage["engine"] != want || usage["envoy"] != want || usage["load"].RSS == 0 || c.check() != nil {
					t.Errorf("%v, %v", usage, c.check())
				}
				if err := os.RemoveAll(filepath.Join(dir, "cgroup")); err != nil {
					t.Fatal(err)
				}
				if _, err := c.usage(); err == nil || c.check() == nil {
					t.Error("services that have ended are not missed")
				}
			})
		}
	}
}
