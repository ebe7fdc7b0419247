package compose

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// file is what docker-compose.yaml may have: a key that is not here is a mistake, or has to be looked at here.
type file struct {
	Name     string
	Services map[string]service
}

type service struct {
	Image   string
	Build   *struct{ Context, Target string }
	Command []string
	Ports   []string
	Volumes []struct {
		Type, Source, Target string
		ReadOnly             bool `yaml:"read_only"`
		Bind                 struct {
			CreateHostPath bool `yaml:"create_host_path"`
		}
	}
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
	Healthcheck *struct {
		Test              []string
		Interval, Timeout string
		Retries           int
	}
	StopGracePeriod string `yaml:"stop_grace_period"`
	Restart         string
	Environment     map[string]string
	User            string
	ReadOnly        bool `yaml:"read_only"`
	Tmpfs           []string
	CapDrop         []string `yaml:"cap_drop"`
	SecurityOpt     []string `yaml:"security_opt"`
	MemLimit        string   `yaml:"mem_limit"`
	CPUs            float64  `yaml:"cpus"`
	PIDsLimit       int      `yaml:"pids_limit"`
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestCompose: the file is YAML that Docker can understand, what it names exists, and nothing is open to other machines.
func TestCompose(t *testing.T) {
	top := root(t)
	var f file
	dec := yaml.NewDecoder(bytes.NewReader(read(t, top, "docker-compose.yaml")))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil {
		t.Fatal(err)
	}
	stages := regexp.MustCompile(`(?m)^FROM \S+ AS (\S+)$`).FindAllStringSubmatch(string(read(t, top, "Dockerfile")), -1)
	for _, name := range []string{"envoy", "engine", "upstream", "prometheus", "grafana"} {
		if f.Services[name].Image == "" {
			t.Errorf("there is no service %q", name)
		}
	}
	for name, s := range f.Services {
		image := regexp.MustCompile(`^\$\{[A-Z_]+:-(\S+:\S+)\}$`).FindStringSubmatch(s.Image)
		if image == nil || strings.HasSuffix(image[1], ":latest") {
			t.Errorf("%s: image %q has no variable, or no version", name, s.Image)
		}
		if s.Build != nil && !strings.Contains(fmt.Sprint(stages), " "+s.Build.Target+"]") {
			t.Errorf("%s: Dockerfile has no stage %q, only %v", name, s.Build.Target, stages)
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s: port %s is open to other machines", name, p)
			}
		}
		for _, v := range s.Volumes {
			source := regexp.MustCompile(`\$\{[A-Z_]+:-(.*)\}`).ReplaceAllString(v.Source, "$1")
			if _, err := os.Stat(filepath.Join(top, source)); err != nil && !strings.HasPrefix(source, "./build/") {
				t.Errorf("%s: %v", name, err)
			}
			if v.Type != "bind" || !v.ReadOnly || v.Bind.CreateHostPath {
				t.Errorf("%s: volume %+v", name, v)
			}
		}
		for other, d := range s.DependsOn {
			if f.Services[other].Image == "" || d.Condition == "service_healthy" && f.Services[other].Healthcheck == nil && other != "engine" {
				t.Errorf("%s waits for %s, which has no health, or does not exist", name, other)
			}
		}
	}
	if e := f.Services["engine"]; e.MemLimit != "1g" || e.CPUs != 2 || e.PIDsLimit == 0 || e.Environment["POLICY_ENGINE_WORKER_2"] != "true" {
		t.Errorf("engine: %s of memory, %v CPUs, %d processes, environment %v", e.MemLimit, e.CPUs, e.PIDsLimit, e.Environment)
	}
	for name, s := range f.Services {
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) {
			t.Errorf("%s: read-only root %v, capabilities dropped %v, security %v", name, s.ReadOnly, s.CapDrop, s.SecurityOpt)
		}
	}
	if version := "v" + harness.EnvoyVersion + "}"; !strings.HasSuffix(f.Services["envoy"].Image, version) {
		t.Errorf("Envoy is %s, want %s", f.Services["envoy"].Image, version)
	}
}

// TestEngine: the files of kernel and worker are legal, and Envoy's is what policyctl prints for them.
func TestEngine(t *testing.T) {
	dir := filepath.Join(root(t), "deploy", "compose")
	kernel, worker := filepath.Join(dir, "kernel-config.yaml"), filepath.Join(dir, "worker-config-1.yaml")
	if _, err := config.LoadKernel(kernel); err != nil {
		t.Error(err)
	}
	for _, file := range []string{worker, filepath.Join(dir, "worker-config-2.yaml")} {
		if _, err := config.LoadWorker(file); err != nil {
			t.Error(err)
		}
	}
	args := []string{"envoy", "--kernel", kernel, "--listen", "0.0.0.0:10000", "--admin", "", "--engine", "engine:9001", "--upstream", "upstream:8080"}
	want, err := exec.CommandContext(t.Context(), harness.Program(t, "policyctl"), args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir, "envoy.yaml"); !bytes.Equal(got, want) {
		t.Errorf("deploy/compose/envoy.yaml is not what this prints: bin/policyctl %s", strings.Join(args, " "))
	}
	file := filepath.Join(dir, "envoy.yaml")
	if out, err := exec.CommandContext(t.Context(), harness.Envoy(t), "--mode", "validate", "--config-path", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestImage: a container that nobody has configured starts, and lets nothing pass.
func TestImage(t *testing.T) {
	dir := filepath.Join(root(t), "deploy", "container")
	k, err := config.LoadKernel(filepath.Join(dir, "kernel-config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if k.UnknownRoute != config.UnknownRouteDeny || len(k.Routes) != 0 || len(k.Workers) != 1 {
		t.Errorf("unknown routes: %v, %d routes, %d workers", k.UnknownRoute, len(k.Routes), len(k.Workers))
	}
	for i, name := range []string{"worker-config-1.yaml", "worker-config-2.yaml"} {
		w, err := config.LoadWorker(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("/var/run/policy-engine/workers/worker-%d.sock", i+1); w.SocketPath != want {
			t.Errorf("%s: the socket is %s, want %s", name, w.SocketPath, want)
		}
	}
}

// TestDockerfile: supervisord.conf finds each of its variables; what `docker build` makes without a target is the engine, for the user who owns the sockets.
func TestDockerfile(t *testing.T) {
	dockerfile := string(read(t, root(t), "Dockerfile"))
	for _, v := range regexp.MustCompile(`%\(ENV_([A-Z0-9_]+)\)s`).FindAllStringSubmatch(string(read(t, root(t), "supervisord.conf")), -1) {
		if !strings.Contains(dockerfile, v[1]+"=") {
			t.Errorf("Dockerfile does not set %s", v[1])
		}
	}
	last := dockerfile[strings.LastIndex(dockerfile, "\nFROM "):]
	for _, want := range []string{"FROM ${BASE_IMAGE} AS engine\n", "\nUSER 1000:1000\n", "\nSTOPSIGNAL SIGTERM\n", "\nHEALTHCHECK ", "/out/policy-kernel /out/policy-worker-1 /out/policy-worker-2 /usr/local/bin/\n"} {
		if !strings.Contains(last, want) {
			t.Errorf("the last stage of Dockerfile lacks %q", want)
		}
	}
	for _, want := range []string{"ARG GO_IMAGE=golang:", "ARG BASE_IMAGE=alpine:"} {
		if !strings.Contains(dockerfile, want) {
			t.Errorf("Dockerfile lacks %q", want)
		}
	}
}
