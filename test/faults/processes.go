package main

import (
	"errors"
	"syscall"
	"time"

	"github.com/policy-engine/policy-engine/test/stage"
	"github.com/policy-engine/policy-engine/test/traffic"
)

// fatal reports whether without these processes nobody can serve.
func (x *exercise) fatal(names []string) bool {
	workers, kernels := 0, 0
	for _, name := range names {
		switch name {
		case stage.Worker1, stage.Worker2:
			workers++
		default:
			kernels++
		}
	}
	return workers == x.Replicas() || kernels == x.Kernels()
}

// ends ends processes by a signal. supervisord starts them again.
func (x *exercise) ends(signal syscall.Signal, names ...string) error {
	x.inject(x.fatal(names))
	return x.restart(signal, names...)
}

// restart is ends as a part of a fault.
func (x *exercise) restart(signal syscall.Signal, names ...string) error {
	return x.Restart(recovery, signal, names...)
}

// hangs stops processes for a time.
func (x *exercise) hangs(names ...string) error {
	x.inject(x.fatal(names))
	for _, name := range names {
		if err := x.Signal(name, syscall.SIGSTOP); err != nil {
			return err
		}
	}
	x.hold(3 * time.Second)
	return x.heal(func() error {
		for _, name := range names {
			if err := x.Signal(name, syscall.SIGCONT); err != nil {
				return err
			}
		}
		return nil
	})
}

// troubles sends more kinds of requests for a time. The others must not notice.
func (x *exercise) troubles(kinds ...*traffic.Kind) error {
	x.inject(false)
	x.sends(kinds...)
	x.hold(2 * time.Second)
	return x.heal(func() error { x.sends(); return nil })
}

// crashLoop has a worker end as soon as it has started, several times.
func crashLoop(x *exercise) error {
	x.inject(x.alone())
	if err := x.Trouble(1, "exit"); err != nil {
		return err
	}
	x.hold(4 * time.Second)
	return x.heal(func() error { return x.Trouble(1, "") })
}

// oneKernelHangs stops one of two kernels. Envoy finds out, and then the other one serves alone.
func oneKernelHangs(x *exercise) error {
	x.inject(true)
	if err := x.Signal(stage.Kernel, syscall.SIGSTOP); err != nil {
		return err
	}
	x.hold(4 * time.Second) // As long as Envoy waits for answers.
	served := x.served()
	x.hold(1500 * time.Millisecond)
	return errors.Join(served, x.heal(func() error { return x.Signal(stage.Kernel, syscall.SIGCONT) }))
}

// rollingRestart is an upgrade: workers and kernels are ended in order and started again, each when the one before is back.
func rollingRestart(x *exercise) error {
	x.inject(false)
	for _, name := range []string{stage.Worker1, stage.Worker2, stage.Kernel, stage.Kernel2} {
		if err := errors.Join(x.restart(syscall.SIGTERM, name), x.whole()); err != nil {
			return err
		}
		x.hold(3 * time.Second) // Until everybody has seen that it is back.
	}
	return nil
}
