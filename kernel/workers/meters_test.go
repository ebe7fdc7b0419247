package workers

import (
	"io"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/telemetry"
)

// collect writes the metrics of the registry's replicas.
func collect(t *testing.T, reg *Registry, w io.Writer) error {
	t.Helper()
	e := telemetry.NewExposition()
	reg.CollectMetrics(t.Context(), e)
	return e.Write(w)
}

func TestCollectMetrics(t *testing.T) {
	a, b := socketPath(t), socketPath(t)
	fa, fb := newFake("w", 1, "p"), newFake("w", 2, "p")
	fa.metrics, fb.metrics = "x 1\ngo_threads 4\n", "x 10\ngo_threads 5\n"
	fa.start(t, a)
	killB := fb.start(t, b)
	reg, w := setup(t, nil, a, b)
	eventually(t, "both are up", func() bool { return len(*w.targets.Load()) == 2 })
	expect := func(want string) {
		t.Helper()
		var got strings.Builder
		if err := collect(t, reg, &got); err != nil || got.String() != want {
			t.Errorf("got %q, %v; want %q", got.String(), err, want)
		}
	}
	expect("x 11\ngo_threads{component=\"worker\",worker=\"w\",replica=\"0\"} 4\ngo_threads{component=\"worker\",worker=\"w\",replica=\"1\"} 5\n")
	killB()
	fa.set(func() { fa.metrics = "x 2\n" })
	eventually(t, "one is left", func() bool { return len(*w.targets.Load()) == 1 })
	expect("x 12\n")
}
