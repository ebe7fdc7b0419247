package limits

import (
	"fmt"
	"math"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// Descriptors is how many file descriptors the process may have open: its soft limit, which is raised to the hard one.
func Descriptors() (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("get the limit of open files: %w", err)
	}
	if limit.Cur < limit.Max {
		raised := unix.Rlimit{Cur: limit.Max, Max: limit.Max}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil { // Without it, the soft limit counts.
			limit = raised
		}
	}
	return int(min(limit.Cur, math.MaxInt32)), nil
}

// Memory is what the process may hold in bytes, or 0 where nothing bounds it. It is known after Apply.
func Memory() int64 {
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		return limit
	}
	return 0
}
