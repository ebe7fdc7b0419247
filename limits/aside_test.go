package limits

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAside: the work has a thread of its own, which yields to the others; they stay as they are, and so does whoever waits.
func TestAside(t *testing.T) {
	nice := func(tid int) int {
		t.Helper()
		raw, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
		if err != nil {
			t.Error(err)
		}
		return 20 - raw // What the system call returns is 20 less nice (getpriority(2)).
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, own := nice(0), unix.Gettid()
	for range 3 { // A thread that has become nicer is not used again.
		Aside(func() {
			if unix.Gettid() == own || nice(0) != before+asideNice {
				t.Errorf("thread %d of %d is at nice %d, and %d was at %d", unix.Gettid(), os.Getpid(), nice(0), own, before)
			}
			// What this one starts is not nicer.
			other := make(chan int)
			go func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				other <- nice(0)
			}()
			if got := <-other; got != before {
				t.Errorf("another thread is at nice %d, it was at %d", got, before)
			}
		})
	}
	if got := nice(0); got != before {
		t.Errorf("the caller is at nice %d, it was at %d", got, before)
	}
}

// TestYieldIsRelative: work of a process that yields already does not get more than its other threads.
func TestYieldIsRelative(t *testing.T) {
	for _, before := range []int{10, 17, maxNice} {
		got := make(chan int)
		go func() {
			runtime.LockOSThread() // The thread ends with the goroutine.
			if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), before); err != nil {
				t.Error(err)
			}
			Yield()
			raw, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid())
			if err != nil {
				t.Error(err)
			}
			got <- 20 - raw
		}()
		if nice, want := <-got, min(before+asideNice, maxNice); nice != want {
			t.Errorf("nice %d became %d, want %d", before, nice, want)
		}
	}
}

// TestAsidePanics: who asked for the work gets its panic, with where it was.
func TestAsidePanics(t *testing.T) {
	defer func() {
		if p, _ := recover().(string); !strings.HasPrefix(p, "no such thing") || !strings.Contains(p, "aside_test.go") {
			t.Errorf("the panic is %q", p)
		}
	}()
	Aside(func() { panic("no such thing") })
}
