package conformance

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

// run is one run of a scenario.
type run struct {
	s     *scenario
	e     *engine
	route string

	mu       sync.Mutex
	problems []string
	took     time.Duration
}

func (r *run) errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// perform plays the scenario and notes what was wrong.
func (r *run) perform() {
	start := time.Now()
	defer func() { r.took = time.Since(start) }()
	if r.s.play != nil {
		r.s.play(r)
	} else {
		r.check("the client", r.exchange(), r.s.client)
	}
	r.checkUpstream()
	if r.s.log != nil {
		r.checkLog()
	}
}

func (r *run) check(who string, m *message, checks []check) {
	m.unmeasured = r.s.duplex
	for _, c := range checks {
		if problem := c(m); problem != "" {
			r.errorf("what %s saw: %s; it is %v", who, problem, m)
		}
	}
}

// checkUpstream waits for what must have arrived, which the client may know before the upstream has noted it.
func (r *run) checkUpstream() {
	want := r.s.upstream
	err := harness.Within(10*time.Second, func() error {
		got := r.e.upstream.of(r.s.name)
		if len(got) < want.count && !want.orNever {
			return fmt.Errorf("%d requests reached the upstream", len(got))
		}
		for i := range got {
			if !got[i].done {
				return fmt.Errorf("request %d has not ended", i)
			}
		}
		return nil
	})
	got := r.e.upstream.of(r.s.name)
	if err != nil || len(got) > want.count {
		r.errorf("%d requests reached the upstream, want %d; %v; they are %v", len(got), want.count, err, got)
		return
	}
	for i := range got {
		r.check("the upstream", &got[i], want.checks)
	}
}

// checkLog looks for the scenario's line in Envoy's access log.
func (r *run) checkLog() {
	var line map[string]any
	err := harness.Within(10*time.Second, func() error {
		for text := range strings.Lines(r.e.Envoy.Output()) {
			line = nil
			if !strings.HasPrefix(text, "{") || json.Unmarshal([]byte(text), &line) != nil {
				continue
			}
			if r.isOurs(line) {
				return nil
			}
		}
		return fmt.Errorf("the access log has no line of route %s, path %q", r.route, r.s.routed)
	})
	if err != nil {
		r.errorf("%v", err)
		return
	}
	metadata, _ := line["policy_engine"].(map[string]any)
	for name, want := range r.s.log {
		got, ok := metadata[name]
		if !ok {
			got = line[name]
		}
		if fmt.Sprint(got) != want {
			r.errorf("the access log says that %s is %v, want %s; line %v", name, got, want, line)
		}
	}
}

// isOurs reports whether a line of the access log is the scenario's: by its route, or, where that is chosen anew, by its path.
func (r *run) isOurs(line map[string]any) bool {
	if r.s.routed != "" {
		return line["path"] == r.s.routed
	}
	return line["route"] == r.route
}

// performAll plays the scenarios, so many at the same time, and tells of each when it has ended.
func performAll(e *engine, scenarios []*scenario, atOnce int, tell func(*run)) {
	runs := make(chan *run)
	go func() {
		defer close(runs)
		for _, s := range scenarios {
			runs <- &run{s: s, e: e, route: e.routeOf(s)}
		}
	}()
	var wait sync.WaitGroup
	var telling sync.Mutex
	for range atOnce {
		wait.Go(func() {
			for r := range runs {
				r.perform()
				telling.Lock()
				tell(r)
				telling.Unlock()
			}
		})
	}
	wait.Wait()
}
