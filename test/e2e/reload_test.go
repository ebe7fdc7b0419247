package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

// reloadHead is how the kernel's file begins; server and admin are the harness's.
const reloadHead = `policy_kernel:
  server: {address: 127.0.0.1, port: "${PORT_KERNEL}", transport: "${TRANSPORT}"}
  admin: {address: 127.0.0.1, port: "${PORT_ADMIN}"}
  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 5s}
  route_policies:
`

// versionText is a configuration whose route "versioned" marks request and response with a version, with some routes more.
func versionText(version, more int) string {
	var b strings.Builder
	b.WriteString(reloadHead)
	fmt.Fprintf(&b, `    - route_name: versioned
      request_flow: {policy_chain: [{policy: modifyHeaders, params: {set: {x-version: "%[1]d"}}}]}
      response_flow: {policy_chain: [{policy: modifyHeaders, params: {set: {x-version: "%[1]d"}}}]}
`, version)
	for i := range more {
		fmt.Fprintf(&b, `    - route_name: route-%d
      request_flow: {policy_chain: [{policy: modifyHeaders, params: {set: {x-version: "%d"}}}]}
`, i, version)
	}
	return b.String()
}

// reloadScene is an engine whose kernel follows a file of the test.
type reloadScene struct {
	*harness.Engine
	t    *testing.T
	file string
}

// startReload starts an engine with the file; the upstream tells the version of the request in x-request-version, after a while.
func startReload(t *testing.T, file string) *reloadScene {
	t.Helper()
	envoyKernel := strings.TrimPrefix(versionText(0, 0), "policy_kernel:\n  server: {address: 127.0.0.1, port: \"${PORT_KERNEL}\", transport: \"${TRANSPORT}\"}\n  admin: {address: 127.0.0.1, port: \"${PORT_ADMIN}\"}\n")
	return &reloadScene{t: t, file: file, Engine: harness.StartEngine(t, harness.Spec{
		KernelFile: file, EnvoyKernel: envoyKernel,
		Workers: []harness.WorkerSpec{{Name: "worker-1", Program: "policy-worker-1", Config: "  name: worker-1\n  socket_path: ${RUN_DIR}/worker-1.sock\n"}},
		Upstream: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(3 * time.Millisecond) // Reloads come between request and response.
			w.Header().Set("X-Request-Version", r.Header.Get("X-Version"))
		}),
	})}
}

// rename puts a text in the place of a file as a whole.
func rename(t *testing.T, file, text string) {
	t.Helper()
	if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
		t.Fatal(err)
	}
}

// version asks for the versions that a request and its response have.
func version(client *http.Client, e *harness.Engine) (request, response string, err error) {
	resp, err := client.Get("http://" + e.Listen + "/versioned")
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", "", fmt.Errorf("status %d", resp.StatusCode)
	}
	return resp.Header.Get("X-Request-Version"), resp.Header.Get("X-Version"), nil
}

// wantVersion waits until requests have a version.
func (s *reloadScene) wantVersion(want int) {
	s.t.Helper()
	harness.Eventually(s.t, fmt.Sprintf("version %d is in use", want), func() error {
		request, response, err := version(http.DefaultClient, s.Engine)
		if err != nil || request != response || request != fmt.Sprint(want) {
			return fmt.Errorf("request %s, response %s, error %w", request, response, err)
		}
		return nil
	})
}

// post asks the kernel to reload.
func (s *reloadScene) post() (int, reloadOutcome) {
	s.t.Helper()
	resp, err := http.Post("http://"+s.Admin+"/config/reload", "", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var o reloadOutcome
	if err := json.NewDecoder(resp.Body).Decode(&o); err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, o
}

type reloadOutcome struct {
	Status     string
	Generation uint64
	Mistakes   []string
}

// TestReloadWays: all ways in which a file changes are seen, without a signal; and a signal and a request of the admin are heard.
func TestReloadWays(t *testing.T) {
	t.Parallel()
	// As kubelet has it: the file is a link into ..data, which is a link to a folder that is replaced.
	dir := t.TempDir()
	folder := func(version int) {
		name := fmt.Sprintf("..v%d", version)
		if err := errors.Join(
			os.Mkdir(filepath.Join(dir, name), 0o700),
			os.WriteFile(filepath.Join(dir, name, "kernel.yaml"), []byte(versionText(version, 0)), 0o600),
			os.Symlink(name, filepath.Join(dir, "..tmp")),
			os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")),
		); err != nil {
			t.Fatal(err)
		}
	}
	folder(1)
	file := filepath.Join(dir, "kernel.yaml")
	if err := os.Symlink("..data/kernel.yaml", file); err != nil {
		t.Fatal(err)
	}
	s := startReload(t, file)
	s.wantVersion(1)
	folder(2)
	s.wantVersion(2)

	rename(t, file, versionText(3, 0))
	s.wantVersion(3)

	if err := os.WriteFile(file, []byte(versionText(4, 0)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.wantVersion(4)

	if err := errors.Join(os.Rename(file, file+"~"), os.WriteFile(file, []byte(versionText(5, 0)), 0o600)); err != nil { // As editors save.
		t.Fatal(err)
	}
	s.wantVersion(5)

	// A slow writer: what is there until it closes the file is a configuration without the route.
	half, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := versionText(6, 0)
	cut := strings.Index(text, "    - route_name")
	for _, part := range []string{strings.Replace(text[:cut], "  route_policies:\n", "", 1), "  route_policies:\n" + text[cut:]} {
		if _, err := half.WriteString(part); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			time.Sleep(50 * time.Millisecond)
			if request, _, err := version(http.DefaultClient, s.Engine); err != nil || request != "5" {
				t.Fatalf("half a file is in use: %s, %v", request, err)
			}
		}
	}
	if err := half.Close(); err != nil {
		t.Fatal(err)
	}
	s.wantVersion(6)

	rename(t, file, versionText(7, 0))
	s.Kernel.Signal(syscall.SIGHUP)
	s.wantVersion(7)

	rename(t, file, versionText(8, 0))
	if code, o := s.post(); code != http.StatusOK || o.Status != "applied" {
		t.Errorf("reload: %d %+v", code, o)
	}
	if request, response, err := version(http.DefaultClient, s.Engine); err != nil || request != "8" || response != "8" {
		t.Errorf("after the answer: %s, %s, %v", request, response, err)
	}

	// What the worker does not accept, with the line of the parameter.
	rename(t, file, strings.Replace(versionText(9, 0), "{set: {x-version: \"9\"}}", "{\n        sett: {x-version: \"9\"}}", 1))
	code, o := s.post()
	if code != http.StatusUnprocessableEntity || len(o.Mistakes) != 1 ||
		!strings.HasPrefix(o.Mistakes[0], file+":9: policy_kernel.route_policies[0].request_flow.policy_chain[0].params.sett: ") {
		t.Errorf("a mistake that the worker finds: %d %+v", code, o)
	}
	s.wantVersion(8)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if code, o := s.post(); code != http.StatusServiceUnavailable || !strings.Contains(fmt.Sprint(o.Mistakes), "no such file") {
		t.Errorf("without a file: %d %+v", code, o)
	}
	s.wantVersion(8)
	s.WaitReady()
	checkLogs(t, s.Engine, []string{"worker-1"})
}

// TestReloadStorm: reloads come as fast as the kernel takes them, in all ways, while requests go on; none fails, and each has one version in both of its phases.
func TestReloadStorm(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "kernel.yaml")
	rename(t, file, versionText(0, 5))
	s := startReload(t, file)
	requests := startVersions(t, s, 8, 0)
	last := 0
	for began := time.Now(); time.Since(began) < 5*time.Second; {
		last++
		rename(t, file, versionText(last, 5+last%7)) // Routes come and go, so that the others change their places.
		switch last % 3 {
		case 0:
			s.Kernel.Signal(syscall.SIGHUP)
		case 1:
			if code, o := s.post(); code != http.StatusOK {
				t.Errorf("reload: %d %+v", code, o)
			}
		case 2: // A bad one between.
			rename(t, file, "policy_kernel: {wrong: 1}\n")
			if code, _ := s.post(); code != http.StatusUnprocessableEntity {
				t.Errorf("a bad one: %d", code)
			}
		}
	}
	last++
	rename(t, file, versionText(last, 1))
	s.wantVersion(last)
	requests.end()
	t.Logf("%d reloads, %d requests with %d versions", last, requests.count(), len(requests.versions))
	if len(requests.versions) < 5 {
		t.Errorf("the requests saw %d versions only", len(requests.versions))
	}
	harness.Eventually(t, "old generations are retired", func() error {
		if m := s.Scrape(); m["policy_worker_generations"] != 1 {
			return fmt.Errorf("the worker holds %v", m["policy_worker_generations"])
		}
		return nil
	})
	checkLogs(t, s.Engine, []string{"worker-1"})
}

// TestReloadOfManyRoutes: 10,000 routes are taken over again and again under a constant rate of requests; none fails.
func TestReloadOfManyRoutes(t *testing.T) {
	const routes, rate = 10_000, 500
	file := filepath.Join(t.TempDir(), "kernel.yaml")
	rename(t, file, versionText(0, routes))
	s := startReload(t, file)
	requests := startVersions(t, s, 8, rate)
	time.Sleep(3 * time.Second)
	quiet := requests.takeLatencies()
	var took []time.Duration
	for version := 1; version <= 3; version++ {
		rename(t, file, versionText(version, routes))
		began := time.Now()
		if code, o := s.post(); code != http.StatusOK {
			t.Fatalf("reload: %d %+v", code, o)
		}
		took = append(took, time.Since(began).Round(time.Millisecond))
		s.wantVersion(version)
	}
	during := requests.takeLatencies()
	requests.end()
	t.Logf("%d requests, none failed; reloads took %v; P99 %v before, %v during; P50 %v and %v", requests.count(), took,
		quantile(quiet, 0.99), quantile(during, 0.99), quantile(quiet, 0.5), quantile(during, 0.5))
}

// versionLoad is clients that ask for versions.
type versionLoad struct {
	t     *testing.T
	stop  chan struct{}
	wg    sync.WaitGroup
	total atomic.Int64

	mu        sync.Mutex
	versions  map[string]bool
	latencies []time.Duration
}

// startVersions starts clients that send at a rate per second all together, or as fast as they can if it is 0. A request that fails, or has two versions, fails the test.
func startVersions(t *testing.T, s *reloadScene, clients, rate int) *versionLoad {
	t.Helper()
	l := &versionLoad{t: t, stop: make(chan struct{}), versions: make(map[string]bool)}
	for range clients {
		l.wg.Go(func() {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: harness.Timeout}
			var ticks <-chan time.Time
			if rate > 0 {
				ticker := time.NewTicker(time.Second * time.Duration(clients) / time.Duration(rate))
				defer ticker.Stop()
				ticks = ticker.C
			} else {
				always := make(chan time.Time)
				close(always)
				ticks = always
			}
			for {
				select {
				case <-l.stop:
					return
				case <-ticks:
				}
				began := time.Now()
				request, response, err := version(client, s.Engine)
				took := time.Since(began)
				switch {
				case err != nil:
					t.Errorf("a request failed: %v", err)
				case request != response || request == "":
					t.Errorf("a request of version %q has a response of version %q", request, response)
				}
				l.total.Add(1)
				l.mu.Lock()
				l.versions[request] = true
				l.latencies = append(l.latencies, took)
				l.mu.Unlock()
			}
		})
	}
	return l
}

func (l *versionLoad) end() {
	close(l.stop)
	l.wg.Wait()
}

func (l *versionLoad) count() int64 { return l.total.Load() }

func (l *versionLoad) takeLatencies() []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.latencies
	l.latencies = nil
	return taken
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[int(q*float64(len(d)-1))].Round(10 * time.Microsecond)
}

// TestReadyWithManyRoutes: kernel and worker are ready within a second after they were started with 1,000 routes. The best of three counts, because tests run beside it.
func TestReadyWithManyRoutes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kernel.yaml")
	rename(t, file, versionText(0, 1000))
	best := time.Hour
	for range 3 {
		e := harness.Prepare(t, harness.Spec{
			KernelFile: file, NoEnvoy: true,
			Workers: []harness.WorkerSpec{{Name: "worker-1", Program: "policy-worker-1", Config: "  name: worker-1\n  socket_path: ${RUN_DIR}/worker-1.sock\n"}},
		})
		began := time.Now()
		e.StartWorker("worker-1")
		e.StartKernel()
		e.WaitReady()
		best = min(best, time.Since(began))
		e.Kernel.Kill()
	}
	t.Logf("ready after %v", best)
	if best > time.Second {
		t.Errorf("ready after %v, want 1 s", best)
	}
}
