//go:build !linux || race

package socket

import (
	"errors"
	"syscall"
)

// The race detector follows what passes through the calls of the syscall package, and other systems have other numbers.

func read(fd int, b []byte) (int, syscall.Errno) { return outcome(syscall.Read(fd, b)) }

func write(fd int, b []byte) (int, syscall.Errno) { return outcome(syscall.Write(fd, b)) }

func outcome(n int, err error) (int, syscall.Errno) {
	if err == nil {
		return n, 0
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return 0, errno
	}
	return 0, syscall.EIO
}
