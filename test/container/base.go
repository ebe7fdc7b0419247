package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// base says on what the image is built.
type base struct {
	description string
	arguments   []string // of the build
}

// findBase takes the Dockerfile's own bases where a registry can be reached. Elsewhere it makes some from what this machine has: Debian with supervisor, and with this machine's
// Go and modules. CONTAINER_BASE=local does so anyway.
func findBase(ctx context.Context, e *engine) (*base, error) {
	if os.Getenv("CONTAINER_BASE") != "local" {
		if b := registryBase(ctx, e); b != nil {
			return b, nil
		}
	}
	dir, err := filepath.Abs(filepath.Join("build", "container"))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "gocache"), 0o755); err != nil {
		return nil, err
	}
	system, err := systemImage(ctx, e, dir)
	if err != nil {
		return nil, fmt.Errorf("make a base image: %w", err)
	}
	toolchain, err := goImage(ctx, e, dir, system)
	if err != nil {
		return nil, fmt.Errorf("make an image with Go: %w", err)
	}
	b := &base{
		description: "Debian and Go of this machine, since no registry can be reached",
		arguments:   []string{"--build-arg", "BASE_IMAGE=" + system, "--build-arg", "GO_IMAGE=" + toolchain, "--build-arg", "GOPROXY=file:///go-proxy"},
	}
	if e.program == "podman" {
		b.arguments = append(b.arguments, "--volume", filepath.Join(dir, "gocache")+":/go-cache")
	}
	return b, nil
}

// registryBase is nil unless the Dockerfile's bases are there, or can be pulled.
func registryBase(ctx context.Context, e *engine) *base {
	dockerfile, err := os.ReadFile("Dockerfile")
	if err != nil {
		return nil
	}
	for _, m := range regexp.MustCompile(`(?m)^ARG (?:GO|BASE)_IMAGE=(\S+)$`).FindAllStringSubmatch(string(dockerfile), -1) {
		ctx, cancel := context.WithTimeout(ctx, 3*probeTimeout)
		_, err := output(ctx, e.program, append(e.global, "pull", "-q", "docker.io/library/"+m[1])...)
		cancel()
		if err != nil {
			return nil
		}
	}
	return &base{description: "the Dockerfile's own bases"}
}

// systemImage is Debian with Python and supervisor, from the mirror that apt uses here.
func systemImage(ctx context.Context, e *engine, dir string) (string, error) {
	codename, mirror, err := aptSource(ctx)
	if err != nil {
		return "", err
	}
	name := "localhost/policy-engine-base:" + codename
	if _, err := e.command(ctx, "image", "inspect", name); err == nil {
		return name, nil
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		if err := install(ctx, "mmdebstrap"); err != nil {
			return "", err
		}
	}
	fmt.Fprintf(os.Stderr, "making %s from %s\n", name, mirror)
	file := filepath.Join(dir, "base.tar")
	if _, err := output(ctx, "mmdebstrap", "--variant=minbase", "--include=python3-minimal,supervisor", codename, file, mirror); err != nil {
		return "", err
	}
	defer os.Remove(file)
	_, err = e.command(ctx, "import", file, name)
	return name, err
}

// aptSource is the name of this Debian, and where apt gets it.
func aptSource(ctx context.Context) (codename, mirror string, err error) {
	release, err := os.Open("/etc/os-release")
	if err != nil {
		return "", "", fmt.Errorf("a base image can only be made on Debian: %w", err)
	}
	defer release.Close()
	for lines := bufio.NewScanner(release); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "VERSION_CODENAME="); ok {
			codename = strings.Trim(name, `"`)
		}
	}
	targets, err := output(ctx, "apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)", "Created-By: Packages")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(targets) {
		if f := strings.Fields(line); len(f) == 4 && f[0] == "Debian" && f[1] == codename && f[2] == "main" {
			return codename, f[3], nil
		}
	}
	return "", "", fmt.Errorf("apt knows no mirror of Debian %q; apt-get update may help; %q", codename, targets)
}

// goImage is the system with this machine's Go, and with the modules as a proxy in a folder, so that the build needs no network.
func goImage(ctx context.Context, e *engine, dir, system string) (string, error) {
	sums, err := os.ReadFile("go.sum")
	if err != nil {
		return "", err
	}
	dockerfile := "FROM " + system + "\nADD go.tar /usr/local/\nADD proxy.tar /go-proxy/\n" +
		"ENV GOCACHE=/go-cache PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
	name := fmt.Sprintf("localhost/policy-engine-go:%x", sha256.Sum256(append(sums, runtime.Version()+dockerfile...)))[:55]
	if _, err := e.command(ctx, "image", "inspect", name); err == nil {
		return name, nil
	}
	fmt.Fprintf(os.Stderr, "making %s\n", name)
	environment, err := output(ctx, "go", "env", "GOROOT", "GOMODCACHE", "GOPROXY")
	if err != nil {
		return "", err
	}
	where := strings.Split(strings.TrimSpace(environment), "\n")
	if len(where) != 3 {
		return "", fmt.Errorf("go env says %q", environment)
	}
	goroot, cache, proxy := where[0], where[1], where[2]
	modules := filepath.Join(dir, "modules")
	build := filepath.Join(dir, "go")
	if err := os.MkdirAll(build, 0o755); err != nil {
		return "", err
	}
	defer os.RemoveAll(build)
	if err := os.WriteFile(filepath.Join(build, "Dockerfile"), []byte(dockerfile), 0o600); err != nil {
		return "", err
	}
	for _, command := range [][]string{
		{"env", "GOMODCACHE=" + modules, "GOFLAGS=-modcacherw", "GOPROXY=file://" + filepath.Join(cache, "cache", "download") + "," + proxy, "go", "mod", "download"},
		{"tar", "cf", filepath.Join(build, "proxy.tar"), "-C", filepath.Join(modules, "cache", "download"), "."},
		{"tar", "cf", filepath.Join(build, "go.tar"), "-C", goroot, "--transform", `s,^\./,go/,`, "--exclude=./test", "--exclude=./api", "."},
	} {
		if _, err := output(ctx, command[0], command[1:]...); err != nil {
			return "", err
		}
	}
	if err := os.RemoveAll(modules); err != nil {
		return "", err
	}
	args := append([]string{}, e.global...)
	args = append(append(args, "build"), e.buildFlags()...)
	_, err = output(ctx, e.program, append(args, "-t", name, build)...)
	return name, err
}
