package main

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/policy-engine/policy-engine/test/stage"
)

// socketRemoved takes the first replica's socket away: connections that are there go on. It is back when the worker was started again.
func socketRemoved(x *exercise) error {
	x.inject(false)
	if err := os.Remove(x.Socket(1)); err != nil {
		return err
	}
	x.hold(2 * time.Second)
	if x.alone() {
		x.outage()
	}
	return x.heal(func() error { return x.restart(syscall.SIGTERM, stage.Worker1) })
}

func chmod(mode os.FileMode) func(path string) error {
	return func(path string) error { return os.Chmod(path, mode) }
}

func chown(uid int) func(path string) error {
	return func(path string) error { return os.Chown(path, uid, -1) }
}

// badSocket has a kernel that starts find a socket that it must refuse, and say why.
func (x *exercise) badSocket(spoil, mend func(path string) error, why string) error {
	x.inject(true)
	if err := spoil(x.Socket(1)); err != nil {
		return err
	}
	if err := x.restart(syscall.SIGKILL, stage.Kernel); err != nil {
		return err
	}
	if err := stage.Within(recovery, func() error {
		if err := x.Whole(); err == nil || !strings.Contains(err.Error(), why) {
			return fmt.Errorf("the kernel says of a socket of wrong %s: %v", why, err)
		}
		return nil
	}); err != nil {
		return err
	}
	if !x.alone() {
		// The other replica serves.
		if err := x.served(); err != nil {
			return err
		}
	}
	x.hold(time.Second)
	return x.heal(func() error { return mend(x.Socket(1)) })
}

// garbage puts a server into the worker's place that answers with noise.
func garbage(x *exercise) error {
	path := x.Socket(1)
	x.inject(x.alone())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path + ".g", Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				noise := make([]byte, 64<<10)
				_, _ = rand.Read(noise)
				_ = conn.SetDeadline(time.Now().Add(time.Second))
				_, _ = conn.Write(noise)
				_, _ = conn.Read(noise)
			})
		}
	})
	if err := os.Chmod(path+".g", 0o600); err != nil {
		return err
	}
	if err := os.Rename(path+".g", path); err != nil {
		return err
	}
	if err := x.Signal(stage.Worker1, syscall.SIGKILL); err != nil {
		return err
	}
	x.hold(3 * time.Second)
	return x.heal(func() error {
		_ = l.Close()
		group.Wait()
		return os.Remove(path)
	})
}

// folder makes a folder where the worker's socket was.
func folder(x *exercise) error {
	path := x.Socket(1)
	x.inject(x.alone())
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	if err := x.Signal(stage.Worker1, syscall.SIGKILL); err != nil {
		return err
	}
	x.hold(3 * time.Second)
	return x.heal(func() error { return os.Remove(path) })
}
