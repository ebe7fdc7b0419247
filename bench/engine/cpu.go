package engine

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// maxPID is Linux's PID_MAX_LIMIT (proc(5)); the id must fit into the clock's.
const maxPID = 1 << 22

// CPUTime is the time that all threads of a process have run, system calls included, to the nanosecond. The process may be any of this machine.
func CPUTime(pid int) (time.Duration, error) {
	if pid <= 0 || pid > maxPID {
		return 0, fmt.Errorf("read CPU time of process %d: legal are 1 to %d", pid, maxPID)
	}
	// The clock of a process: its id, complemented, above the three bits that say which clock; 2 is the scheduler's (clock_getcpuclockid(3), and
	// CPUCLOCK_SCHED in Linux's include/linux/posix-timers_types.h).
	var now unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|2, &now); err != nil {
		return 0, fmt.Errorf("read CPU time of process %d: %w", pid, err)
	}
	return time.Duration(now.Nano()), nil
}
