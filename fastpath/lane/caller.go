package lane

import (
	"errors"
	"runtime"
	"strings"
)

// Under reports whether the function, by the end of its full name, is among the callers on this goroutine. It takes microseconds: it is not for the fast path.
func Under(function string) bool {
	var pcs [64]uintptr
	for skip := 2; ; {
		n := runtime.Callers(skip, pcs[:])
		frames := runtime.CallersFrames(pcs[:n])
		for more := n > 0; more; {
			var f runtime.Frame
			f, more = frames.Next()
			if strings.HasSuffix(f.Function, function) {
				return true
			}
		}
		if n < len(pcs) {
			return false
		}
		skip += n
	}
}

// ErrInline is the error of an outgoing call of a step.
var ErrInline = errors.New("outgoing call in a phase method that runs inline, where it would hold up other requests; make it in a function given to policies.Await, or implement policies.Blocking")
