// Command profiledkernel is the kernel with contention profiles on, which the admin listener then shows: for make profile.
package main

import (
	"runtime"

	"github.com/policy-engine/policy-engine/kernel"
)

func main() {
	// Every contention above 10 µs, and a hundredth of those on mutexes.
	runtime.SetBlockProfileRate(10_000)
	runtime.SetMutexProfileFraction(100)
	kernel.Main("loadtest")
}
