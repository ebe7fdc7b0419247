package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/policy-engine/policy-engine/test/process"
	"github.com/policy-engine/policy-engine/test/stage"
)

// limit sets the soft limit of a process and returns what takes it away again.
func limit(pid, resource int, value uint64) (back func() error, err error) {
	var old unix.Rlimit
	if err := unix.Prlimit(pid, resource, nil, &old); err != nil {
		return nil, fmt.Errorf("read a limit of process %d: %w", pid, err)
	}
	if err := unix.Prlimit(pid, resource, &unix.Rlimit{Cur: min(value, old.Max), Max: old.Max}, nil); err != nil {
		return nil, fmt.Errorf("set a limit of process %d: %w", pid, err)
	}
	return func() error {
		err := unix.Prlimit(pid, resource, &old, nil)
		if errors.Is(err, syscall.ESRCH) {
			return nil // It has ended, and the limit with it.
		}
		return err
	}, nil
}

// fullDisk has each write of supervisord to a file fail, as on a full disk, while there is much to log.
func fullDisk(x *exercise) error {
	x.inject(false)
	back, err := limit(x.Supervisor(), unix.RLIMIT_FSIZE, 1)
	if err != nil {
		return err
	}
	x.sends(stage.Troubles("panic", 10))
	x.hold(3 * time.Second)
	return x.heal(func() error { x.sends(); return back() })
}

// deafReader stops the reader of the logs, behind pipes that are full soon, while there is much to log.
func deafReader(x *exercise) error {
	x.inject(false)
	for _, pid := range x.PIDs() {
		if err := shrinkPipe(pid); err != nil {
			return err
		}
	}
	if err := x.SignalSupervisor(syscall.SIGSTOP); err != nil {
		return err
	}
	x.sends(stage.Troubles("panic", 10))
	x.hold(4 * time.Second)
	return x.heal(func() error { x.sends(); return x.SignalSupervisor(syscall.SIGCONT) })
}

// shrinkPipe makes the pipe of a process's standard output as small as it can be: a page.
func shrinkPipe(pid int) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", pid), os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize())
	if errors.Is(err, syscall.EBUSY) {
		return nil // There is more in it than that: it is full soon.
	}
	return err
}

// descriptors takes all descriptors that a process has not opened yet, and holds them by connections to it. give ends that.
func (x *exercise) descriptors(name, network, address string) (give func() error, err error) {
	pid, err := x.PID(name)
	if err != nil {
		return nil, err
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return nil, err
	}
	const left, more = 4, 40
	back, err := limit(pid, unix.RLIMIT_NOFILE, uint64(len(open)+left))
	if err != nil {
		return nil, err
	}
	var conns []net.Conn
	for range more {
		conn, err := net.DialTimeout(network, address, time.Second)
		if err != nil {
			break // Its queue is full, too.
		}
		conns = append(conns, conn)
	}
	return func() error {
		for _, conn := range conns {
			_ = conn.Close()
		}
		return back()
	}, nil
}

// kernelDescriptors takes the kernel's descriptors. Envoy's connections go on; and so do those of the workers, one of which ends in the pair.
func kernelDescriptors(x *exercise) error {
	x.inject(false)
	give, err := x.descriptors(stage.Kernel, "tcp", x.Kernel(0))
	if err != nil {
		return err
	}
	x.hold(2 * time.Second)
	return x.heal(give)
}

// connectWithoutDescriptors has Envoy connect to a kernel that has no descriptor left to accept it with: it has to go on accepting when there are some again.
func connectWithoutDescriptors(x *exercise) error {
	x.inject(true)
	give, err := x.descriptors(stage.Kernel, "tcp", x.Kernel(0))
	if err != nil {
		return err
	}
	x.Wire.Reset()
	x.hold(2 * time.Second)
	return x.heal(give)
}

// workerDescriptors takes a worker's, and has it find a new file that it can't open.
func workerDescriptors(x *exercise) error {
	x.inject(false)
	give, err := x.descriptors(stage.Worker1, "unix", x.Socket(1))
	if err != nil {
		return err
	}
	err = x.WriteKeys()
	x.hold(2 * time.Second)
	return errors.Join(err, x.heal(give))
}

// workerMemory has a worker take more memory than there is for it, which ends it.
func workerMemory(x *exercise) error {
	pid, err := x.PID(stage.Worker1)
	if err != nil {
		return err
	}
	size, err := addressSpace(pid)
	if err != nil {
		return err
	}
	x.inject(x.alone())
	const room = 96 << 20
	if _, err := limit(pid, unix.RLIMIT_AS, size+room); err != nil {
		return err
	}
	if err := x.Trouble(1, "hog"); err != nil {
		return err
	}
	// The one that comes after it has no limit: it must not find the order to take memory.
	ended := stage.Within(recovery, func() error {
		if now := x.PIDs()[stage.Worker1]; now == pid {
			return errors.New("a worker has more memory than its limit")
		}
		return nil
	})
	return errors.Join(ended, x.heal(func() error { return x.Trouble(1, "") }))
}

// addressSpace is how much address space a process has taken, in bytes: the first field of /proc/PID/statm, in pages (proc(5)).
func addressSpace(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	var pages uint64
	if _, err := fmt.Sscan(string(text), &pages); err != nil {
		return 0, fmt.Errorf("read the size of process %d: %w", pid, err)
	}
	return pages * uint64(os.Getpagesize()), nil
}

// starvation has others take the processors: four loops for each. Nobody can promise then that a request is served in time; but none may pass unchecked, and none wait for ever.
func starvation(x *exercise) error {
	x.inject(true)
	var all []*process.Process
	for range 4 * runtime.NumCPU() {
		p, err := process.Start("loop", "/bin/sh", nil, "-c", "while :; do :; done")
		if err != nil {
			return err
		}
		all = append(all, p)
	}
	x.hold(3 * time.Second)
	return x.heal(func() error {
		for _, p := range all {
			p.Kill()
		}
		return nil
	})
}
