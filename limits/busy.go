package limits

import (
	"runtime"
	"sync"
)

// busy counts the work that is under way beside the requests.
var busy struct {
	sync.Mutex
	ours  bool // Apply has set the number of threads, and may change it
	under int
}

// Busy says that the caller begins work that keeps a thread busy for long, such as reading a configuration, until done. The process has one thread more meanwhile, unless the
// environment says how many it has: on a single thread, the Go scheduler gives such work 10 ms at a time, and each step of a request would wait for that. With two, the operating system
// shares the processor out, in much smaller portions.
func Busy() (done func()) {
	widen(1)
	return sync.OnceFunc(func() { widen(-1) })
}

func widen(by int) {
	busy.Lock()
	defer busy.Unlock()
	was := busy.under
	busy.under += by
	if busy.ours && (was == 0 || busy.under == 0) {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + by)
	}
}

// narrow makes the process as narrow as processors says.
func narrow() {
	busy.Lock()
	defer busy.Unlock()
	busy.ours = true
	runtime.GOMAXPROCS(processors(runtime.GOMAXPROCS(0)))
}
