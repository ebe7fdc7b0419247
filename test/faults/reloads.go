package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/policy-engine/policy-engine/test/stage"
)

// reloads is how many reloads of a status the kernel has counted.
func (x *exercise) reloads(status string) (float64, error) {
	m, err := x.Scrape(0)
	if err != nil {
		return 0, err
	}
	return m.Sum("policy_kernel_config_reload_total", `status="`+status+`"`), nil
}

// counted waits until the kernel counts a reload more of a status, for which it is told to do something.
func (x *exercise) counted(status string, do func() error) error {
	before, err := x.reloads(status)
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return stage.Within(recovery, func() error {
		if now, err := x.reloads(status); err != nil || now <= before {
			return errors.Join(fmt.Errorf("the kernel has not counted a reload that is a %s", status), err)
		}
		return nil
	})
}

// badReload spoils the configuration of the kernel that runs, and has it read it by SIGHUP: the last good one stays, and the kernel says so.
func (x *exercise) badReload(spoil func(path string) error) error {
	x.inject(false)
	// By itself the kernel waits longer with what may be half of a file.
	if err := x.counted("failure", func() error { return errors.Join(spoil(x.KernelFile(0)), x.Signal(stage.Kernel, syscall.SIGHUP)) }); err != nil {
		return err
	}
	x.hold(time.Second)
	return x.heal(func() error {
		return x.counted("success", func() error { return errors.Join(x.WriteKernel(0, ""), x.Signal(stage.Kernel, syscall.SIGHUP)) })
	})
}

// edit changes a text of a file.
func edit(old, text string) func(path string) error {
	return func(path string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !strings.Contains(string(b), old) {
			return fmt.Errorf("edit %s: there is no %q", path, old)
		}
		return os.WriteFile(path, []byte(strings.Replace(string(b), old, text, 1)), 0o600)
	}
}

// binary writes what is no text.
func binary(path string) error { return os.WriteFile(path, []byte{0, 1, 2, 0xff, 0xfe, 0}, 0o600) }

// reloadStorm changes the configuration again and again, in place and by rename, with signals between. Every second time it has mistakes.
func reloadStorm(x *exercise) error {
	x.inject(false)
	end := time.Now().Add(3 * time.Second)
	for i := 0; time.Now().Before(end); i++ {
		err := x.WriteKernel(0, fmt.Sprintf("    - {route_name: storm-%d}\n", i%7))
		if i%2 == 1 {
			err = half(x.KernelFile(0))
		}
		if err == nil && i%5 == 0 {
			err = x.Signal(stage.Kernel, syscall.SIGHUP)
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(30 * time.Millisecond):
		case <-x.ctx.Done():
			return x.ctx.Err()
		}
	}
	return x.heal(func() error {
		return x.counted("success", func() error { return errors.Join(x.WriteKernel(0, ""), x.Signal(stage.Kernel, syscall.SIGHUP)) })
	})
}

// reloadWhileWorkersEnd reloads while a replica is killed: it must come back with the configuration of that time.
func reloadWhileWorkersEnd(x *exercise) error {
	x.inject(x.alone())
	if err := x.Signal(stage.Worker1, syscall.SIGKILL); err != nil {
		return err
	}
	if err := x.WriteKernel(0, "    - {route_name: meanwhile}\n"); err != nil {
		return err
	}
	x.hold(2 * time.Second)
	return x.heal(func() error { return x.WriteKernel(0, "") })
}
