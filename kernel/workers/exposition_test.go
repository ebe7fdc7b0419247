package workers

import (
	"strings"
	"testing"
)

func TestExposition(t *testing.T) {
	tests := []struct {
		name  string
		texts []string
		want  string
	}{
		{"nothing", nil, ""},
		{"one", []string{"a 1\nb{x=\"y\"} 2.5\n"}, "a 1\nb{x=\"y\"} 2.5\n"},
		{"sums", []string{"a{x=\"1\"} 1\na{x=\"2\"} 2\n", "a{x=\"2\"} 3\na{x=\"3\"} 4\n"}, "a{x=\"1\"} 1\na{x=\"2\"} 5\na{x=\"3\"} 4\n"},
		{"families stay together", []string{"a{x=\"1\"} 1\nb 1\n", "a{x=\"2\"} 1\nb 1\n"}, "a{x=\"1\"} 1\na{x=\"2\"} 1\nb 2\n"},
		{
			"types once",
			[]string{"# HELP a what\n# TYPE a counter\na 1\n", "# HELP a what else\n# TYPE a counter\na 1\n"},
			"# HELP a what\n# TYPE a counter\na 2\n",
		},
		{
			"histogram",
			[]string{"# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3.5\nh_count 2\n", "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 0.25\nh_count 1\n"},
			"# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 3.75\nh_count 3\n",
		},
		{"braces and quotes in values", []string{`a{x="}\"} 7"} 1` + "\n", `a{x="}\"} 7"} 2` + "\n"}, `a{x="}\"} 7"} 3` + "\n"},
		{"timestamps are dropped", []string{"a 1 1700000000000\n"}, "a 1\n"},
		{"large and small", []string{"a 9007199254740993\nb 1e-7\nc +Inf\n"}, "a 9.007199254740992e+15\nb 1e-07\nc +Inf\n"},
		{"broken lines", []string{"a\n{x=\"1\"} 1\nb{x=\"1\" 2\nc x\n d 1 2 3\n\n#\n# TYPE\n# a comment\ne 1"}, "e 1\n"},
		{"the kernel's names", []string{"# TYPE policy_kernel_requests_total counter\npolicy_kernel_requests_total{route=\"a\"} 1\ngo_goroutines 7\nprocess_start_time_seconds 1\nb 1\n"}, "b 1\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newExposition()
			for _, text := range tt.texts {
				e.add([]byte(text))
			}
			var got strings.Builder
			if err := e.write(&got); err != nil || got.String() != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got.String(), tt.want)
			}
		})
	}
}

func TestWriteMetrics(t *testing.T) {
	a, b := socketPath(t), socketPath(t)
	fa, fb := newFake("w", 1, "p"), newFake("w", 2, "p")
	fa.metrics, fb.metrics = "x 1\n", "x 10\n"
	fa.start(t, a)
	killB := fb.start(t, b)
	reg, w := setup(t, nil, a, b)
	eventually(t, "both are up", func() bool { return len(*w.targets.Load()) == 2 })
	expect := func(want string) {
		t.Helper()
		var got strings.Builder
		if err := reg.WriteMetrics(t.Context(), &got); err != nil || got.String() != want {
			t.Errorf("got %q, %v; want %q", got.String(), err, want)
		}
	}
	expect("x 11\n")
	killB()
	fa.set(func() { fa.metrics = "x 2\n" })
	eventually(t, "one is left", func() bool { return len(*w.targets.Load()) == 1 })
	expect("x 12\n")
}
