package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

const longStreams = twoWorkers + `  route_policies:
    - route_name: watched
      request_flow: {policy_chain: [{policy: sumA}, {policy: answerB, params: {if: x-e2e-must-not-arrive, status: 403}}]}
      response_flow: {policy_chain: [{policy: sumB}]}
    - route_name: edited
      request_flow: {policy_chain: [{policy: chunkA, params: {name: a, find: secret, with: "***"}}]}
      response_flow: {policy_chain: [{policy: chunkB, params: {name: b, find: secret, with: "***"}}]}
`

// blank is as many bytes as it says, none of which is kept by anybody.
type blank struct{ left int64 }

func (z *blank) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	clear(p[:n])
	z.left -= n
	return int(n), nil
}

// longUpstream sends events by turns with the client, or as many bytes as the request asks for after what it got.
type longUpstream struct{ next chan struct{} }

func (u *longUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("events") != "" {
		(&protocolUpstream{next: u.next}).ServeHTTP(w, r)
		return
	}
	got, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return
	}
	var size int64
	_, _ = fmt.Sscan(r.URL.Query().Get("size"), &size)
	w.Header().Set("X-Got", fmt.Sprint(got))
	_, _ = io.Copy(w, &blank{size})
}

// streamModes are the ways in which Envoy is told to exchange streams with the engine.
var streamModes = []struct {
	name  string
	envoy []string
}{{"asked for", nil}, {"full duplex", []string{"--full-duplex", "*"}}}

func startLong(t *testing.T, untapped bool, envoy []string) (*harness.Engine, *longUpstream) {
	t.Helper()
	u := &longUpstream{next: make(chan struct{})}
	return harness.StartEngine(t, harness.Spec{
		Kernel: longStreams, Upstream: u, Untapped: untapped, EnvoyArgs: envoy,
		Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	}), u
}

// TestEventsThroughChunks: policies on chunks pass each event on without waiting for the next one.
func TestEventsThroughChunks(t *testing.T) {
	t.Parallel()
	for _, mode := range streamModes {
		t.Run(mode.name, func(t *testing.T) { eventsThroughChunks(t, mode.envoy) })
	}
}

func eventsThroughChunks(t *testing.T, envoy []string) {
	e, upstream := startLong(t, false, envoy)
	for _, route := range []string{"/watched", "/edited"} {
		t.Run(route, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+e.Listen+route+"/events?events=1", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := newClient(t, "HTTP/1.1").Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			lines := bufio.NewReader(resp.Body)
			for i := range 3 {
				line, err := lines.ReadString('\n')
				if want := fmt.Sprintf("data: %d\n", i); err != nil || line != want {
					t.Fatalf("event %d: %q, error %v", i, line, err)
				}
				if _, err := lines.ReadString('\n'); err != nil {
					t.Fatal(err)
				}
				upstream.next <- struct{}{} // The upstream sends the next one only now.
			}
			if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
				t.Errorf("after the events: %q, error %v", rest, err)
			}
		})
	}
	wantIdle(t, e)
}

// What a transfer may be, and do to the memory of kernel and workers together, above what they had before; in bytes.
const (
	shortTransfer = 64 << 20
	maxGrowth     = 32 << 20
)

// transferVariable is how many MiB are transferred, for `make large`.
const transferVariable = "POLICY_ENGINE_TRANSFER_MIB"

func transferSize(t *testing.T) int64 {
	t.Helper()
	text := os.Getenv(transferVariable)
	if text == "" {
		return shortTransfer
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		t.Fatalf("$%s is %q; legal are whole numbers from 1", transferVariable, text)
	}
	return n << 20
}

// TestLargeTransfers: what passes by in chunks is not kept.
func TestLargeTransfers(t *testing.T) {
	for _, mode := range streamModes {
		t.Run(mode.name, func(t *testing.T) { largeTransfers(t, mode.envoy) })
	}
}

func largeTransfers(t *testing.T, envoy []string) {
	e, _ := startLong(t, true, envoy)
	size := transferSize(t)
	client := newClient(t, "HTTP/1.1")
	client.Timeout = 0
	transfer := func(route string, up, down int64) {
		t.Helper()
		resp, err := client.Post(fmt.Sprintf("http://%s%s?size=%d", e.Listen, route, down), "application/octet-stream", &blank{up})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.Copy(io.Discard, resp.Body)
		if err != nil || got != down || resp.Header.Get("X-Got") != fmt.Sprint(up) || resp.StatusCode != 200 {
			t.Fatalf("%s: %s, sent %s of %d bytes, got %d of %d, error %v", route, resp.Status, resp.Header.Get("X-Got"), up, got, down, err)
		}
	}
	for _, route := range []string{"/watched", "/edited"} {
		transfer(route, 1<<20, 1<<20) // What programs load once is there from here on.
		_, before := memory(t, e)
		for _, direction := range []string{"upload", "download"} {
			began, stop := time.Now(), make(chan struct{})
			told := make(chan struct{})
			go func() { tellMemory(t, e, route+" "+direction, stop); close(told) }()
			if direction == "upload" {
				transfer(route, size, 0)
			} else {
				transfer(route, 0, size)
			}
			close(stop)
			<-told
			_, after := memory(t, e)
			t.Logf("%s %s: %d MiB in %.1f s; kernel and workers had %.1f MiB at most before, %.1f MiB after",
				route, direction, size>>20, time.Since(began).Seconds(), mebibytes(before), mebibytes(after))
			if after-before > maxGrowth {
				t.Errorf("%s %s: kernel and workers have grown by %.1f MiB", route, direction, mebibytes(after-before))
			}
		}
	}
	wantIdle(t, e)
}

// tellMemory logs what kernel and workers have, each second.
func tellMemory(t *testing.T, e *harness.Engine, what string, stop <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for began := time.Now(); ; {
		select {
		case <-stop:
			return
		case <-tick.C:
			now, most := memory(t, e)
			t.Logf("%s: after %4.1f s kernel and workers have %.1f MiB, had %.1f MiB at most", what, time.Since(began).Seconds(), mebibytes(now), mebibytes(most))
		}
	}
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }

// memory is what kernel and workers have now, and the most that each of them has had; in bytes (VmRSS and VmHWM of proc_pid_status(5)).
func memory(t *testing.T, e *harness.Engine) (now, most int64) {
	t.Helper()
	seen := map[int]bool{}
	for _, p := range []*harness.Process{e.Kernel, e.Worker("a"), e.Worker("b")} {
		if seen[p.PID()] { // In the one-process form they are one.
			continue
		}
		seen[p.PID()] = true
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
		if err != nil {
			t.Error(err)
			return 0, 0
		}
		now, most = now+field(t, string(text), "VmRSS:"), most+field(t, string(text), "VmHWM:")
	}
	return now, most
}

func field(t *testing.T, status, name string) int64 {
	t.Helper()
	_, rest, _ := strings.Cut(status, name)
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Errorf("%s is not in the status of a process: %v", name, err)
	}
	return kib << 10
}
