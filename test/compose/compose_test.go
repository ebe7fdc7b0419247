package compose

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	for _, name := range []string{"envoy", "engine", "redis", "upstream"} {
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
	if _, err := config.LoadWorker(worker); err != nil {
		t.Error(err)
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

// TestDockerfile: supervisord.conf finds each of its variables.
func TestDockerfile(t *testing.T) {
	dockerfile := string(read(t, root(t), "Dockerfile"))
	for _, v := range regexp.MustCompile(`%\(ENV_([A-Z0-9_]+)\)s`).FindAllStringSubmatch(string(read(t, root(t), "supervisord.conf")), -1) {
		if !strings.Contains(dockerfile, v[1]+"=") {
			t.Errorf("Dockerfile does not set %s", v[1])
		}
	}
}
