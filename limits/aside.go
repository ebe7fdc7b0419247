package limits

import (
	"fmt"
	"runtime"
	"runtime/debug"

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
		// Never unlocked: who has become nicer may not become less nice again without privileges, so the thread ends with this goroutine. The runtime starts no other threads from it, which
		// would be as nice.
		runtime.LockOSThread()
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), asideNice) // Of the thread alone (setpriority(2)); without it, the work is only less polite.
		do()
	}()
	<-done
	if panicked != nil {
		panic(panicked)
	}
}
