package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// line is a fault's line of the table.
func (o *outcome) line() string {
	verdict := "ok"
	if len(o.Problems) > 0 {
		verdict = fmt.Sprintf("FAILED: %s (the machine stood still for %.2f s at most)", strings.Join(o.Problems, "; "), o.Stall.Seconds())
		for _, example := range o.Count.Examples {
			verdict += "\n      " + example
		}
	}
	c := &o.Count
	for _, what := range slices.Sorted(maps.Keys(o.Counted)) {
		verdict += fmt.Sprintf("\n      %s: %.0f", what, o.Counted[what])
	}
	return fmt.Sprintf("%5.0f s  %-7s %-34s %6d sent %5d invalid  bypassed %d  lost %d  excused %-5d %-22s outage %5.2f s  full service %5.2f s  slowest %5.2f s  %s",
		time.Since(started).Seconds(), o.Stage, o.Fault, c.Sent, c.Invalid, c.Bypassed, c.Lost, c.Excused, statuses(c.Statuses), o.Outage.Seconds(), o.Full.Seconds(), c.Slowest.Seconds(), verdict)
}

func statuses(all map[string]int) string {
	if len(all) == 0 {
		return ""
	}
	return strings.TrimPrefix(fmt.Sprint(all), "map")
}

// summary is what came of all faults.
type summary struct {
	Injected int `json:"injected"`
	Bypassed int `json:"bypassed"`
	Lost     int `json:"lost"`
	Hung     int `json:"hung"`
	Failed   int `json:"failed"`
	Requests int `json:"requests"`
	// Crash is the longest time from a worker's crash to full service.
	Crash   time.Duration `json:"worker_crash_to_full_service_ns"`
	Rate    int           `json:"rate"`
	Seconds float64       `json:"seconds"`
	Faults  []*outcome    `json:"faults"`
}

func total(all []*outcome, rate int) *summary {
	s := &summary{Injected: len(all), Rate: rate, Seconds: time.Since(started).Seconds(), Faults: all}
	for _, o := range all {
		s.Bypassed += o.Count.Bypassed
		s.Lost += o.Count.Lost
		s.Hung += o.Count.Hung
		s.Requests += o.Count.Sent
		if o.Fault == workerKilled || o.Fault == workersKilled {
			s.Crash = max(s.Crash, o.Full)
		}
		if len(o.Problems) > 0 {
			s.Failed++
		}
	}
	return s
}

func (s *summary) ok() bool { return s.Injected > 0 && s.Failed == 0 }

func (s *summary) String() string {
	return fmt.Sprintf("%d requests in %.0f s at %.0f per second; from a worker's crash to full service %.2f s at most; %d faults failed\nfaults: %d injected, %d bypassed, %d lost", s.Requests, s.Seconds, s.sent(), s.Crash.Seconds(), s.Failed, s.Injected, s.Bypassed, s.Lost)
}

// sent is how many requests were sent per second, while faults were played.
func (s *summary) sent() float64 {
	var requests, seconds float64
	for _, o := range s.Faults {
		requests += float64(o.Count.Sent)
		seconds += float64(o.Count.Sent) / o.Rate
	}
	return requests / max(seconds, 1e-9)
}

// write writes it as JSON, and as a page next to that.
func (s *summary) write(file string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := write(file, append(text, '\n')); err != nil {
		return err
	}
	return write(strings.TrimSuffix(file, ".json")+".html", s.page())
}

func write(file string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o644)
}
