package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/loadtest/rig"
	"github.com/policy-engine/policy-engine/test/harness"
	"github.com/policy-engine/policy-engine/test/process"
)

func TestMain(m *testing.M) { harness.Main(m) }

const timeout = 5 * time.Minute

// tools are the programs for measurements, built from the sources as they are, and the flags that say where everything is.
func tools(t *testing.T) (program string, flags []string) {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts Envoy and the engine")
	}
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "./bench/noop-fast", "./bench/noop-grpc", "./bench/noop-grpc-plain", "./bench/span-sink", "./loadtest", "./loadtest/partworker", "./loadtest/profiledkernel")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return filepath.Join(dir, "loadtest"), []string{
		"-bin", filepath.Dir(harness.Program(t, "policy-kernel")), "-bench", dir, "-envoy", harness.Envoy(t),
		"-credentials", filepath.Join(dir, "credentials"), "-reports", filepath.Join(dir, "reports"), "-clients", "20",
	}
}

// runProgram runs it to its end.
func runProgram(t *testing.T, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func readJSON(t *testing.T, v any, path ...string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// TestCompare measures every row, shortly: each starts, does what it has to for each client, refuses what it has to, and is in the report.
func TestCompare(t *testing.T) {
	program, flags := tools(t)
	out := runProgram(t, program, slices.Concat([]string{"compare"}, flags, []string{"-rounds", "1", "-duration", "200ms", "-connections", "4", "-connections-table=false", "-turns", "1"})...)
	var rows []struct {
		Name   string
		RPS    float64
		P50    float64            `json:"p50_ms"`
		CPU    map[string]float64 `json:"cpu_us_per_request"`
		Memory map[string]float64 `json:"memory_mb"`
		Hits   *float64           `json:"cache_hit_ratio"`
		Failed float64
	}
	readJSON(t, &rows, filepath.Dir(program), "reports", "compare.json")
	processes := map[string][]string{
		"envoy": nil, "envoy-native": nil, "envoy-native-jwt-cache": nil, "noop-grpc": {"noop-grpc"}, "noop-grpc-plain": {"noop-grpc-plain"}, "noop-fast": {"noop-fast"},
		"engine-3-fast-2-workers": {"kernel", "worker-1", "worker-2"}, "engine-3-one-process": {"engine"},
		"engine-3-fast-traced": {"kernel", "worker-1", "span-sink"},
	}
	if len(rows) != 14 {
		t.Errorf("%d rows\n%s", len(rows), out)
	}
	for _, r := range rows {
		want, ok := processes[r.Name]
		if !ok {
			want = []string{"kernel", "worker-1"}
		}
		for _, name := range append(want, "envoy", "load") {
			if _, measured := r.CPU[name]; !measured || r.Memory[name] <= 0 {
				t.Errorf("%s: %s has CPU %v and memory %v", r.Name, name, r.CPU, r.Memory)
			}
		}
		if len(r.CPU) != len(want)+2 || r.RPS <= 0 || r.P50 <= 0 || r.Failed > 0 {
			t.Errorf("%+v", r)
		}
		switch {
		case strings.HasPrefix(r.Name, "engine-3-fast-cold"):
			if r.Hits == nil || *r.Hits > 0 {
				t.Errorf("tokens that were never seen were known: %+v", r)
			}
		case strings.HasPrefix(r.Name, "engine-3"):
			if r.Hits == nil || *r.Hits < 1 {
				t.Errorf("tokens that were seen were not known: %+v", r)
			}
		}
	}
	var turns struct {
		Pairs   int
		Ratio   float64
		Without float64 `json:"cpu_us_per_request"`
	}
	readJSON(t, &turns, filepath.Dir(program), "reports", "compare-tracing.json")
	if turns.Pairs != 1 || turns.Ratio <= 0 || turns.Without <= 0 {
		t.Errorf("%+v", turns)
	}
	for _, want := range []string{"engine-3-fast requests per second over noop-grpc's", "goal ≥ 1.15", "round 1/1", "by turns (1 pairs"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// TestBurst keeps some requests in flight in both forms, and has all of them answered at once.
func TestBurst(t *testing.T) {
	program, flags := tools(t)
	out := runProgram(t, program, slices.Concat([]string{"burst"}, flags, []string{"-sizes", "20,300", "-rate", "2000"})...)
	var report struct {
		Rows []struct {
			Form                                    string
			Requests, Answered, Unchecked, Repeated int
			InFlight                                int `json:"in_flight"`
			Request, Response                       struct {
				P99 float64 `json:"p99_ms"`
			}
		}
	}
	readJSON(t, &report, filepath.Dir(program), "reports", "burst.json")
	if len(report.Rows) != 4 {
		t.Fatalf("%d rows\n%s", len(report.Rows), out)
	}
	for i, r := range report.Rows {
		if want := []int{20, 300}[i%2]; r.Requests != want || r.InFlight != want || r.Answered != want || r.Unchecked+r.Repeated > 0 {
			t.Errorf("%+v, want %d requests, all in flight and answered\n%s", r, want, out)
		}
		if r.Form != []string{"two", "one"}[i/2] || r.Request.P99 <= 0 || r.Response.P99 <= 0 {
			t.Errorf("%+v", r)
		}
	}
	if !strings.Contains(out, "burst: 640 requests, 0 unchecked, 0 lost") {
		t.Error(out)
	}
}

// TestAttack holds a low rate for two seconds, in both forms.
func TestAttack(t *testing.T) {
	program, flags := tools(t)
	for name, more := range map[string][]string{
		"two workers, many routes": {"-workers", "2", "-routes", "100"},
		"one process":              {"-form", "one"},
		"no identity":              {"-chain", "rateLimit,securityHeaders", "-transport", "grpc"},
	} {
		t.Run(name, func(t *testing.T) {
			reports := t.TempDir()
			args := slices.Concat([]string{"attack"}, flags, []string{"-reports", reports, "-rate", "100", "-duration", "2s", "-warm-up", "200ms"}, more)
			out := runProgram(t, program, args...)
			var got struct {
				Success, Requests float64
				P50               float64            `json:"p50_ms"`
				CPU               map[string]float64 `json:"cpu_us_per_request"`
			}
			readJSON(t, &got, reports, "loadtest.json")
			if got.Success != 1 || got.Requests < 150 || got.P50 <= 0 || len(got.CPU) < 4 || !strings.Contains(out, "   1 s") {
				t.Errorf("%+v\n%s", got, out)
			}
			if page, err := os.ReadFile(filepath.Join(reports, "loadtest.html")); err != nil || !bytes.Contains(page, []byte("<svg")) {
				t.Errorf("the page: %v", err)
			}
		})
	}
}

// TestContainers measures what others have started, as with docker-compose.yaml. Without Docker, the report says that CPU and memory are not available.
func TestContainers(t *testing.T) {
	program, flags := tools(t)
	c, err := credentials.Load(filepath.Join(filepath.Dir(program), "credentials"), 20, 20, time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	port, err := process.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	harness.Start(t, "upstream", program, nil, "upstream", "-listen", address)
	spec := rig.Spec{Asked: rig.Engine, Chain: rig.DefaultChain, Upstream: address}
	r, err := rig.Start(t.Context(), spec, rig.Programs{Bin: flags[1], Bench: flags[3], Envoy: flags[5]}, c)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	t.Setenv("PATH", t.TempDir())
	reports := t.TempDir()
	out := runProgram(t, program, slices.Concat([]string{"attack"}, flags, []string{
		"-reports", reports, "-rate", "100", "-duration", "2s", "-warm-up", "200ms", "-target", "compose", "-compose-envoy", r.Target.String(),
		"-compose-upstream", address, "-compose-admin", r.Admin(), "-compose-prefix", r.Paths()[0],
	})...)
	var got struct {
		Success, Requests float64
		CPU               map[string]float64 `json:"cpu_us_per_request"`
		Unavailable       string
	}
	readJSON(t, &got, reports, "loadtest.json")
	if got.Success != 1 || got.Requests < 150 || len(got.CPU) != 0 || !strings.Contains(got.Unavailable, "docker") || !strings.Contains(out, "not available") {
		t.Errorf("%+v\n%s", got, out)
	}
}

// TestProfile takes all profiles of all processes.
func TestProfile(t *testing.T) {
	program, flags := tools(t)
	out := runProgram(t, program, slices.Concat([]string{"profile"}, flags, []string{"-duration", "1s", "-connections", "4"})...)
	for _, name := range []string{"kernel", "worker-1"} {
		for _, kind := range []string{"cpu", "heap", "mutex", "block"} {
			file := filepath.Join(filepath.Dir(program), "reports", "profile", name+"."+kind+".pb.gz")
			if info, err := os.Stat(file); err != nil || info.Size() == 0 || !strings.Contains(out, file) {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}

// TestInterrupt: when the program is told to end, at whatever point, it ends with failure and all its processes with it. When it is killed, they end too.
func TestInterrupt(t *testing.T) {
	program, flags := tools(t)
	for name, tt := range map[string]struct {
		signal syscall.Signal
		at     string // what it has printed by then
	}{
		"while it starts":   {syscall.SIGINT, "starting"},
		"under load":        {syscall.SIGINT, "   1 s"},
		"by the terminal":   {syscall.SIGHUP, "   1 s"},
		"without a warning": {syscall.SIGKILL, "   1 s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			p, err := process.Start("loadtest", program, nil, slices.Concat([]string{"attack"}, flags, []string{"-reports", t.TempDir(), "-rate", "50", "-duration", "1h", "-warm-up", "100ms"})...)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Kill()
			var children []int
			err = process.Within(timeout, func() error {
				if children = childrenOf(p.PID()); !strings.Contains(p.Output(), tt.at) || len(children) == 0 {
					return fmt.Errorf("printed %q", p.Output())
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			status, err := p.Wait(timeout)
			if err != nil || status == 0 {
				t.Errorf("status %d, %v", status, err)
			}
			err = process.Within(timeout, func() error {
				for _, pid := range children {
					if _, err := process.UsageOf(pid); err == nil {
						return fmt.Errorf("process %d still runs", pid)
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if left, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "*")); tt.signal != syscall.SIGKILL && (err != nil || len(left) > 0) {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// childrenOf returns the processes that a process has started (proc(5): the parent is the second field after the name).
func childrenOf(pid int) []int {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	var children []int
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // It has ended.
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if child, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			children = append(children, child)
		}
	}
	return children
}

func TestUsage(t *testing.T) {
	for args, says := range map[string]string{
		"":                                  "a command is missing",
		"attak":                             `unknown command "attak", expected one of attack, burst, compare`,
		"burst -sizes 1,many":               `unknown size "many", expected a number of requests`,
		"burst -sizes 0":                    "sizes must be between 1 and 65536, got 0",
		"burst -forms three":                `unknown form "three", expected one or two`,
		"burst -rate -1":                    "rate must be between 0 and 1000000, got -1",
		"burst -transport quic":             `transport "quic"`,
		"attack -form three":                "legal are two and one",
		"attack -rate 0":                    "rate of 0",
		"attack -target moon":               "legal are local and compose",
		"attack -target compose -workers 2": "-workers is not legal",
		"attack -chain tenantGuard":         "no configuration for a load",
		"compare -rows nginx":               `no row "nginx"`,
		"upstream -listen nowhere":          "listen",
	} {
		if err := run(t.Context(), append(strings.Fields(args), credentialsFlag(t, args)...)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: error %v, want %q", args, err, says)
		}
	}
}

// credentialsFlag keeps what a command makes out of the tree.
func credentialsFlag(t *testing.T, args string) []string {
	if !slices.ContainsFunc([]string{"attack", "burst", "compare"}, func(name string) bool { return strings.HasPrefix(args, name) }) {
		return nil
	}
	return []string{"-credentials", t.TempDir(), "-clients", "1", "-envoy", "/bin/false"}
}
