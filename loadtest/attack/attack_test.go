package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/loadtest/upstream"
	"github.com/policy-engine/policy-engine/test/process"
)

// fake stands for the processes of a system.
type fake struct {
	cpu, hits atomic.Int64
	why       string
	ended     error
}

func (f *fake) usage() (map[string]process.Usage, error) {
	if f.why != "" {
		return nil, nil
	}
	used := process.Usage{CPU: time.Duration(f.cpu.Add(1)) * time.Second, RSS: 20e6}
	return map[string]process.Usage{"envoy": used, "kernel": used, "worker-1": used, "upstream": used, "load": used}, nil
}
func (f *fake) unavailable() string { return f.why }
func (f *fake) check() error        { return f.ended }

func (f *fake) metrics() (process.Metrics, error) {
	series := `policy_worker_policy_events_total{policy="jwtValidation",event="cache_hit"}`
	return process.Metrics{series: float64(f.hits.Add(10))}, nil
}

// startSystem starts an upstream, and in front of it what stands for Envoy and engine: it adds the identity that identify says, none if that is empty.
func startSystem(t *testing.T, identify func(r *http.Request) (string, int)) *system {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	up := &upstream.Server{Header: "x-user-id"}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- up.Serve(ctx, l) }()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	envoy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		identity, status := identify(r)
		if status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
		if identity == "skip the upstream" {
			return
		}
		out, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+l.Addr().String()+r.URL.Path, nil)
		if err != nil {
			t.Error(err)
			return
		}
		if identity != "" {
			out.Header.Set("X-User-Id", identity)
		}
		resp, err := client.Do(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_ = resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
	}))
	t.Cleanup(func() {
		envoy.Close()
		client.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return &system{
		target: strings.TrimPrefix(envoy.URL, "http://"), paths: []string{"/r"}, identifies: true, processes: &fake{},
		count: func() (uint64, uint64, string, error) {
			c := up.Count()
			return c.Right, c.Wrong, c.First, nil
		},
	}
}

func testCredentials(t *testing.T) *credentials.Set {
	t.Helper()
	c, err := credentials.Load(t.TempDir(), 4, 4, time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func options(t *testing.T, out *bytes.Buffer) *Options {
	return &Options{Rate: 100, Duration: 1500 * time.Millisecond, Clients: 4, Workers: 8, Reports: t.TempDir(), Out: out}
}

// own is the identity that a request has to get.
func own(r *http.Request) string { return r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:] }

// TestIdentity: a run in which one client's requests come without its identity fails, however few they are and whatever they are answered.
func TestIdentity(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	c := testCredentials(t)
	last := credentials.Identity(3)
	for name, tt := range map[string]struct {
		identify func(r *http.Request) (string, int)
		says     string // nothing: the run succeeds
	}{
		"each its own": {func(r *http.Request) (string, int) { return own(r), http.StatusOK }, ""},
		"one has none": {func(r *http.Request) (string, int) {
			if own(r) == last {
				return "", http.StatusOK
			}
			return own(r), http.StatusOK
		}, last + ": 0 identities"},
		"one has another's": {func(r *http.Request) (string, int) {
			if own(r) == last {
				return credentials.Identity(0), http.StatusOK
			}
			return own(r), http.StatusOK
		}, "the identity is \"" + credentials.Identity(0)},
		"the upstream never sees them": {func(*http.Request) (string, int) { return "skip the upstream", http.StatusOK }, "only 0 reached the upstream"},
		"all are refused":              {func(*http.Request) (string, int) { return "", http.StatusServiceUnavailable }, "no request succeeded"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			o := options(t, &out)
			err := measure(t.Context(), o, startSystem(t, tt.identify), c)
			if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("error %v, want %q\n%s", err, tt.says, out.String())
			}
		})
	}
}

// TestReport: keys and values of what is written, with a quarter of the requests refused.
func TestReport(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	var out bytes.Buffer
	o := options(t, &out)
	s := startSystem(t, func(r *http.Request) (string, int) {
		if own(r) == credentials.Identity(1) {
			return "", http.StatusTooManyRequests
		}
		return own(r), http.StatusOK
	})
	if err := measure(t.Context(), o, s, testCredentials(t)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(o.Reports, "loadtest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Rate, Throughput, Success float64
		P50                       float64            `json:"p50_ms"`
		P90                       float64            `json:"p90_ms"`
		P99                       float64            `json:"p99_ms"`
		P999                      float64            `json:"p999_ms"`
		CPU                       map[string]float64 `json:"cpu_us_per_request"`
		Memory                    map[string]float64 `json:"memory_mb"`
		EngineMemory              float64            `json:"engine_memory_mb"`
		Requests, Seconds         float64
		WrongIdentity             float64 `json:"wrong_identity"`
		CacheHitRatio             float64 `json:"cache_hit_ratio"`
		Failures                  map[string]float64
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	processes := []string{"envoy", "kernel", "load", "upstream", "worker-1"}
	switch {
	case got.Rate != 100, got.Requests < 100, got.Requests > 160, got.Seconds <= 0:
		t.Errorf("rate %v, %v requests in %v s", got.Rate, got.Requests, got.Seconds)
	case got.Success < 0.7, got.Success > 0.8, got.Throughput < 50, got.Throughput > 85:
		t.Errorf("success %v, throughput %v", got.Success, got.Throughput)
	case got.P50 <= 0, got.P90 < got.P50, got.P99 < got.P90, got.P999 < got.P99:
		t.Errorf("percentiles %v, %v, %v, %v", got.P50, got.P90, got.P99, got.P999)
	case !slices.Equal(slices.Sorted(maps.Keys(got.CPU)), processes), got.CPU["kernel"] <= 0, got.Memory["envoy"] != 20, got.EngineMemory != 40:
		t.Errorf("CPU %v, memory %v, of the engine %v", got.CPU, got.Memory, got.EngineMemory)
	case got.WrongIdentity != 0, got.CacheHitRatio != 1, got.Failures["status 429"] == 0, len(got.Failures) != 1:
		t.Errorf("wrong %v, cache %v, failures %v", got.WrongIdentity, got.CacheHitRatio, got.Failures)
	}
	page, err := os.ReadFile(filepath.Join(o.Reports, "loadtest.html"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Distribution of latencies", "Latency over time", "CPU over time", "Memory over time", "prefers-color-scheme: dark", "worker-1"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page has no %q", want)
		}
	}
	for _, other := range []string{"http://", "https://", "src=", "@import"} {
		if i := strings.Index(strings.ReplaceAll(string(page), "http://www.w3.org/2000/svg", ""), other); i >= 0 {
			t.Errorf("the page needs something from elsewhere: it has %q", other)
		}
	}
	for _, want := range []string{"   1 s", "success", "P99.9", "worker-1", "status 429"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("what is printed has no %q:\n%s", want, out.String())
		}
	}
}

// TestEnds: a process that ends, and an interrupt, end the run.
func TestEnds(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	c := testCredentials(t)
	right := func(r *http.Request) (string, int) { return own(r), http.StatusOK }
	t.Run("a process", func(t *testing.T) {
		t.Parallel()
		s := startSystem(t, right)
		gone := errors.New("the kernel has ended")
		s.processes = &fake{ended: gone}
		if err := measure(t.Context(), options(t, new(bytes.Buffer)), s, c); !errors.Is(err, gone) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("an interrupt", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		o := options(t, new(bytes.Buffer))
		o.Duration = time.Hour
		if err := measure(ctx, o, startSystem(t, right), c); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

// TestUnavailable: where CPU and memory can't be told, the report says so, and has the rest.
func TestUnavailable(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	var out bytes.Buffer
	o := options(t, &out)
	s := startSystem(t, func(r *http.Request) (string, int) { return own(r), http.StatusOK })
	s.processes = &fake{why: "no container engine"}
	if err := measure(t.Context(), o, s, testCredentials(t)); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(o.Reports, "loadtest.html"))
	if err != nil || !strings.Contains(string(page), "no container engine") || !strings.Contains(out.String(), "no container engine") {
		t.Errorf("error %v; printed:\n%s", err, out.String())
	}
}

func TestOptions(t *testing.T) {
	good := Options{Rate: 1, Duration: time.Second, Clients: 1, Workers: 1}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Options){
		"rate": func(o *Options) { o.Rate = 0 }, "duration": func(o *Options) { o.Duration = time.Millisecond },
		"clients": func(o *Options) { o.Clients = 0 }, "workers": func(o *Options) { o.Workers = -1 }, "warm-up": func(o *Options) { o.WarmUp = -1 },
	} {
		bad := good
		if spoil(&bad); bad.check() == nil {
			t.Errorf("a wrong %s was taken", name)
		}
	}
}
