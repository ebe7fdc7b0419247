package watch

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// beingWritten reports whether a process has the file open for writing: then there can be no lease for reading on it (fcntl(2), "Leases"). Leases are for the file's owner and not on
// every file system; where there is none, nothing is known.
func beingWritten(file *os.File) bool {
	conn, err := file.SyscallConn()
	if err != nil {
		return false
	}
	busy := false
	_ = conn.Control(func(fd uintptr) { // It fails only for a closed file.
		_, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK)
		if err == nil {
			_, _ = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK) // Closing the file gives it up too.
		}
		busy = errors.Is(err, unix.EAGAIN)
	})
	return busy
}
