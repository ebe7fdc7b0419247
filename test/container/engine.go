package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

const (
	// image is what is built and tested; it is left, as the layers that it shares with the next one.
	image = "localhost/policy-engine:container-test"
	// commandTimeout bounds a command of the container engine that builds nothing.
	commandTimeout = 90 * time.Second
	// probeTimeout bounds the question whether an engine works, and whether a registry can be reached.
	probeTimeout = 20 * time.Second
)

// engine is Docker or Podman, in the way that works on this machine.
type engine struct {
	program string
	global  []string // before the command
	limits  []string // of each container that runs
	started []string // names of containers
	dir     string   // where its commands run: Podman's monitor leaves a file there when memory runs out
}

func (e *engine) String() string {
	return strings.Join(append([]string{e.program}, e.global...), " ")
}

// findEngine takes the first engine that answers: a program of that name may be there without a daemon. Where Podman can be installed, it is.
func findEngine(ctx context.Context) (*engine, error) {
	var tried []error
	for _, program := range []string{"docker", "podman"} {
		e := &engine{program: program}
		err := e.works(ctx)
		if err == nil {
			return e, e.adapt(ctx)
		}
		tried = append(tried, err)
	}
	if err := install(ctx, "podman", "buildah", "runc", "mmdebstrap"); err != nil {
		return nil, fmt.Errorf("no container engine works here, so nothing is tested: %w", errors.Join(append(tried, err)...))
	}
	e := &engine{program: "podman"}
	if err := e.works(ctx); err != nil {
		return nil, fmt.Errorf("no container engine works here, not even the Podman just installed: %w", err)
	}
	return e, e.adapt(ctx)
}

func (e *engine) works(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := output(ctx, e.program, "info")
	return err
}

// adapt chooses what Podman needs: where there is no systemd, cgroups that it makes itself, and limits that the host allows; where cgroups are of version 1 or hybrid, runc.
func (e *engine) adapt(ctx context.Context) error {
	if e.program != "podman" {
		return nil
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		e.global = append(e.global, "--cgroup-manager", "cgroupfs")
		e.limits = []string{"--ulimit", "nofile=20000:20000", "--ulimit", "nproc=10000:10000"}
	}
	version, err := output(ctx, "podman", "info", "--format", "{{.Host.CgroupsVersion}}")
	if err != nil || strings.TrimSpace(version) == "v2" {
		return err
	}
	e.global = append(e.global, "--runtime", "runc")
	if _, err := exec.LookPath("runc"); err != nil {
		return install(ctx, "runc")
	}
	return nil
}

// install installs Debian packages, where this is Debian and we are root.
func install(ctx context.Context, packages ...string) error {
	if os.Getuid() != 0 {
		return fmt.Errorf("install them with: sudo apt-get install -y %s", strings.Join(packages, " "))
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("install %s: this is no Debian: %w", strings.Join(packages, ", "), err)
	}
	fmt.Fprintf(os.Stderr, "installing %s\n", strings.Join(packages, ", "))
	if _, err := output(ctx, "apt-get", "update", "-q"); err != nil {
		return err
	}
	_, err := output(ctx, "env", append([]string{"DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-q", "-y", "--no-install-recommends"}, packages...)...)
	return err
}

// command runs a command of the engine.
func (e *engine) command(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	return outputIn(ctx, e.dir, e.program, slices.Concat(e.global, args)...)
}

// build builds the image as a user does, from the Dockerfile, with what this machine's bases need.
func (e *engine) build(ctx context.Context, b *base) error {
	args := slices.Concat(e.global, []string{"build"}, e.buildFlags(), b.arguments, []string{"--build-arg", "VERSION=container-test", "-t", image, "."})
	_, err := output(ctx, e.program, args...)
	return err
}

// buildFlags are for Podman: its usual format has no health checks, and its usual isolation needs rights that a build needs not.
func (e *engine) buildFlags() []string {
	if e.program != "podman" {
		return nil
	}
	return []string{"--isolation", "chroot", "--format", "docker"}
}

// clean removes the containers of this test, however it went.
func (e *engine) clean() {
	for _, name := range e.started {
		_, _ = e.command(context.Background(), "rm", "-f", name)
	}
}

// output runs a program in this folder.
func output(ctx context.Context, program string, args ...string) (string, error) {
	return outputIn(ctx, "", program, args...)
}

// outputIn runs a program in a folder. The error has what it said.
func outputIn(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stdout.String() + stderr.String())
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, said[max(0, len(said)-3000):])
	}
	return stdout.String(), nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line[:min(len(line), 160)]
}
