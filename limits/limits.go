// Package limits adapts a process to what its container may use, which it shares with the engine's other processes and often with Envoy.
package limits

import (
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// gcPercent makes the collector run half as often as by default: the heaps are small, and the memory limit bounds them.
const gcPercent = 200

// Apply sets the collector and the number of processors, unless the environment says them (GOGC, GOMEMLIMIT, GOMAXPROCS). memoryShare is the process's part of the
// container's memory limit.
func Apply(log *slog.Logger, memoryShare float64) {
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(gcPercent)
	}
	if _, err := memlimit.Set(memlimit.WithRatio(memoryShare)); err != nil {
		log.Info("no memory limit was set", "reason", err.Error())
	}
	if _, set := os.LookupEnv("GOMAXPROCS"); !set {
		runtime.GOMAXPROCS(processors(runtime.GOMAXPROCS(0)))
	}
}

// processors is how many threads may run Go code at a time, where the container may use that many processors. Half of them: kernel, workers and Envoy pass
// each request on to each other, so they are never all busy with it; and the Go scheduler wakes a second thread at almost every message if it may, which costs more
// than it brings until the first is busy. Measured on two processors, one thread each saves a quarter of the CPU per request.
func processors(available int) int { return max(1, available/2) }

// trimming is true while Trim works.
var trimming atomic.Bool

// Trim gives memory back to the operating system, in the background: for after a configuration was read, which takes many times what is kept of it. Between collections, a
// small process would hold on to that for minutes.
func Trim() {
	if trimming.Swap(true) {
		return
	}
	go func() {
		defer trimming.Store(false)
		debug.FreeOSMemory()
	}()
}
