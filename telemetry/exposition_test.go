package telemetry

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
		{"the kernel's names", []string{"# TYPE policy_kernel_requests_total counter\npolicy_kernel_requests_total{route=\"a\"} 1\nb 1\n"}, "b 1\n"},
		{
			"of processes",
			[]string{"# TYPE go_goroutines gauge\ngo_goroutines 7\n", "go_info{version=\"1\"} 1\ngo_x{} 1\n# TYPE go_h histogram\ngo_h_bucket{le=\"+Inf\"} 2\ngo_h_count 2\n"},
			"# TYPE go_goroutines gauge\ngo_goroutines{worker=\"w\"} 7\ngo_info{worker=\"w\",version=\"1\"} 1\ngo_x{worker=\"w\"} 1\n" +
				"# TYPE go_h histogram\ngo_h_bucket{worker=\"w\",le=\"+Inf\"} 2\ngo_h_count{worker=\"w\"} 2\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := NewExposition()
			for _, text := range tt.texts {
				e.Add([]byte(text), Source{Process: `worker="w"`, Reserved: "policy_kernel_"})
			}
			var got strings.Builder
			if err := e.Write(&got); err != nil || got.String() != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got.String(), tt.want)
			}
		})
	}
}

// TestExpositionOfSeveral: series of processes stand side by side, those of one that is gone are left out, and no source has another's names.
func TestExpositionOfSeveral(t *testing.T) {
	e := NewExposition()
	e.Add([]byte("go_goroutines 7\n"), Source{Process: ProcessLabels("component", "kernel")})
	text := []byte("policy_kernel_streams 9\ngo_goroutines 3\npolicy_worker_build_info{version=\"v\"} 1\npolicy_worker_in_flight 2\n")
	e.Add(text, Source{Reserved: "policy_kernel_", Process: ProcessLabels("component", "worker", "replica", "0")})
	e.Add(text, Source{Reserved: "policy_kernel_", Process: ProcessLabels("component", "worker", "replica", "1")})
	e.Add(text, Source{Reserved: "policy_kernel_"})
	want := `go_goroutines{component="kernel"} 7
go_goroutines{component="worker",replica="0"} 3
go_goroutines{component="worker",replica="1"} 3
policy_worker_build_info{component="worker",replica="0",version="v"} 1
policy_worker_build_info{component="worker",replica="1",version="v"} 1
policy_worker_in_flight 6
`
	var got strings.Builder
	if err := e.Write(&got); err != nil || got.String() != want {
		t.Errorf("got %s, want %s (%v)", got.String(), want, err)
	}
}
