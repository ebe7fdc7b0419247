package limits

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// asideNice is how much Aside's thread yields to others: at 5, a thread of Linux gets a third of what a usual one gets while both want the same processor, and makes none wait that has just been
// woken. Not more: at 10 the requests' P99 was no better, and reloads took no shorter (docs/performance.md).
const asideNice = 5

// Aside does work that keeps a thread busy for long, such as reading a configuration, and returns when it is done. The work has a thread of its own, which takes what the requests leave of
// the processors; the process has one thread more meanwhile (Busy). A panic of do is the caller's.
func Aside(do func()) {
	defer Busy()()
	var panicked any
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				panicked = fmt.Sprintf("%v\n\n%s", p, debug.Stack())
			}
		}()
		Yield()
		do()
	}()
	<-done
	if panicked != nil {
		panic(panicked)
	}
}

// maxNice is the highest nice value of Linux.
const maxNice = 19

// Yield makes the calling goroutine's thread yield to others until the goroutine ends: its nice value is asideNice higher than before. The thread is the goroutine's alone and ends with
// it, because a thread cannot lower its nice value without privileges. The runtime starts no other threads from it, which would have the same value. used returns the thread's processor time.
func Yield() (used func() time.Duration) {
	runtime.LockOSThread()
	tid := unix.Gettid()
	// The system call returns 20 minus the nice value (getpriority(2)). After an error, the work yields less.
	if raw, err := unix.Getpriority(unix.PRIO_PROCESS, tid); err == nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, tid, min(20-raw+asideNice, maxNice)) // Of the thread alone (setpriority(2)).
	}
	return ThreadTime
}

// ThreadTime returns the processor time of the calling thread; 0 if it is not known. A goroutine that compares two of them
// holds its thread in between (runtime.LockOSThread).
func ThreadTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
