// Package limits adapts a process to what its container may use, which it shares with the engine's other processes and often with Envoy.
package limits

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// gcPercent makes the collector run half as often as by default: the heaps are small, and the memory limit bounds them.
const gcPercent = 200

// memoryShare is what the engine's processes may have together of the container's memory limit. The rest is for supervisord, for log files in memory, and for what Go's runtime does
// not count.
const memoryShare = 0.9

// Processes is the variable of the environment that says how many processes of the engine share the container: deploy/container/supervise.py sets it.
const Processes = "POLICY_ENGINE_PROCESSES"

// Apart is how many there are at most, where nobody says it: a kernel and two workers.
const Apart = 3

// maxProcesses bounds what the environment may say.
const maxProcesses = 64

// Apply sets the collector and the number of processors, unless the environment says them (GOGC, GOMEMLIMIT, GOMAXPROCS). The container's memory limit, of version 1 or 2 of
// cgroups, is divided among as many processes as the environment says (Processes), or else as assumed here.
func Apply(log *slog.Logger, assumed int) {
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(gcPercent)
	}
	n, err := sharing(os.Getenv(Processes), assumed)
	if err != nil {
		log.Warn("the memory limit is divided among as many processes as usual", "processes", n, "reason", err.Error())
	}
	if _, err := memlimit.Set(memlimit.WithRatio(share(n))); err != nil {
		log.Info("no memory limit was set", "reason", err.Error())
	}
	if _, set := os.LookupEnv("GOMAXPROCS"); !set {
		narrow()
	}
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		log.Info("the container's limits are known", "memory_limit_bytes", limit, "processes", n, "processors", runtime.GOMAXPROCS(0))
	}
}

// share is the part of the container's memory limit that each of n processes may have.
func share(n int) float64 { return memoryShare / float64(n) }

// sharing is how many processes share the container: what the environment says, or else as assumed.
func sharing(said string, assumed int) (int, error) {
	if said == "" {
		return assumed, nil
	}
	n, err := strconv.Atoi(said)
	if err != nil || n < 1 || n > maxProcesses {
		return assumed, fmt.Errorf("%s is %q; legal are 1 to %d", Processes, said, maxProcesses)
	}
	return n, nil
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
		defer Busy()()
		debug.FreeOSMemory()
	}()
}
