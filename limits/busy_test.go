package limits

import (
	"runtime"
	"testing"
)

func TestBusy(t *testing.T) {
	base := runtime.GOMAXPROCS(0)
	expect := func(when string, want int) {
		t.Helper()
		if got := runtime.GOMAXPROCS(0); got != want {
			t.Errorf("%s: %d threads, want %d", when, got, want)
		}
	}
	narrowed := busy.narrowed
	defer func() { busy.narrowed = narrowed }()
	busy.narrowed = false
	done := Busy()
	expect("as wide as the machine", base)
	done()
	busy.narrowed = true
	first, second := Busy(), Busy()
	expect("busy", base+1)
	first()
	first()
	expect("busy with something else", base+1)
	second()
	expect("after it", base)
}
