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
	ours := busy.ours
	defer func() { busy.ours = ours }()
	busy.ours = false
	done := Busy()
	expect("where the environment says how many", base)
	done()
	busy.ours = true
	first, second := Busy(), Busy()
	expect("busy", base+1)
	first()
	first()
	expect("busy with something else", base+1)
	second()
	expect("after it", base)
}
