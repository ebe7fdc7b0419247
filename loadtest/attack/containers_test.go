package attack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/process"
)

// TestContainers: what services use is read from their cgroups, which docker names. Whatever is amiss is said, and never a figure.
func TestContainers(t *testing.T) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || !strings.HasPrefix(string(own), "0::") {
		t.Skip("this machine has no cgroups of version 2")
	}
	path := strings.TrimSpace(strings.TrimPrefix(string(own), "0::"))
	files := map[string]string{"cpu.stat": "usage_usec 2500000\nuser_usec 1\n", "memory.current": "30000000\n", "memory.stat": "anon 1\ninactive_file 10000000\n"}
	for name, tt := range map[string]struct {
		docker string // what it does
		spoil  string // a file that is missing
		says   string // why the figures are not available
	}{
		"two services":        {`[ $1 = ps ] && printf 'aaa engine\nbbb envoy\n' || echo ` + fmt.Sprint(os.Getpid()), "", ""},
		"no engine":           {`echo "Cannot connect to the Docker daemon" >&2; exit 1`, "", "Cannot connect"},
		"no containers":       {`:`, "", "no containers of the project"},
		"another machine's":   {`[ $1 = ps ] && echo 'aaa engine' || echo 999999999`, "", "not this machine's"},
		"inspect fails":       {`[ $1 = ps ] && echo 'aaa engine' || exit 1`, "", "docker inspect"},
		"no figures of CPU":   {`[ $1 = ps ] && echo 'aaa engine' || echo ` + fmt.Sprint(os.Getpid()), "cpu.stat", "cpu.stat"},
		"no figure of memory": {`[ $1 = ps ] && echo 'aaa engine' || echo ` + fmt.Sprint(os.Getpid()), "memory.current", "memory.current"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			group := filepath.Join(dir, "cgroup", path)
			if err := os.MkdirAll(group, 0o755); err != nil {
				t.Fatal(err)
			}
			for file, text := range files {
				if file == tt.spoil {
					continue
				}
				if err := os.WriteFile(filepath.Join(group, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			docker := filepath.Join(dir, "docker")
			if err := os.WriteFile(docker, []byte("#!/bin/sh\n"+tt.docker+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			c := newContainers(t.Context(), Compose{Docker: docker, Cgroups: filepath.Join(dir, "cgroup")})
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
			if err := os.RemoveAll(group); err != nil {
				t.Fatal(err)
			}
			if _, err := c.usage(); err == nil || c.check() == nil {
				t.Error("services that have ended are not missed")
			}
		})
	}
}
