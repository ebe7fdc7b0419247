package engine

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
)

func TestDecides(t *testing.T) {
	r := start(t, 2)
	r.ready()
	for _, tt := range []struct {
		name, route string
		pairs       []string
		want        string
	}{
		{"no policies", "open", nil, "pass"},
		{"allowed", "deny", nil, "pass"},
		{"denied", "deny", []string{"x-deny", "1"}, "403 "},
		{"a policy panics", "deny", []string{"x-panic", "1"}, "500 "},
		{"the worker outlives it", "deny", nil, "pass"},
		{"unknown route", "nowhere", nil, "500 "},
		{"unknown policy", "unoffered", nil, "500 "},
		{"three calls of two workers", "there-and-back", nil, "A>B>A"},
	} {
		if got := answer(t, r.ask(tt.route, tt.pairs...)); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	s := r.ask("there-and-back")
	if got := answer(t, s); got != "A>B>A" {
		t.Errorf("the request: %s", got)
	}
	response := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: headers(":status", "200")}}
	if err := s.Send(response); err != nil {
		t.Fatal(err)
	}
	if got := answer(t, s); got != "A>B>A>response" {
		t.Errorf("the response: %s", got)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v, want OK", err)
	}

	eventually(t, "the table before was retired, and each worker holds one generation", func() bool {
		_, text := r.get("/metrics")
		return strings.Contains(text, "\npolicy_worker_generations 2\n")
	})
	_, text := r.get("/metrics")
	for _, want := range []string{
		`policy_kernel_requests_total{route="deny",worker="a",status="allowed"} 2`,
		`policy_kernel_requests_total{route="deny",worker="a",status="policy_panic"} 1`,
		`policy_kernel_requests_total{route="there-and-back",worker="a",status="allowed"} 2`,
		`policy_worker_executions_total{policy="deny",status="deny"} 1`,
		`policy_worker_executions_total{policy="trailB",status="continue"} 3`,
		`policy_worker_policy_failures_total{policy="deny",reason="panic"} 1`,
		`policy_kernel_worker_health{worker="b"} 1`,
		"policy_worker_in_flight 0",
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("/metrics has no line %s", want)
		}
	}
	r.end()
	for _, want := range []string{`"policy":"deny"`, `"worker":"b"`, `"message":"policy failed"`} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log has no %s", want)
		}
	}
}

// TestWaiting: chains that wait hold up no other, and what does not fit waits until there is room, or is denied after half of its time.
func TestWaiting(t *testing.T) {
	r := start(t, 2)
	r.ready()
	tables := func() int { return strings.Count(r.log.String(), `"configuration in use"`) }
	first := tables()
	waiting := []stream{r.ask("gate"), r.ask("gate", "x-deny", "1")}
	for range waiting {
		<-r.entered
	}
	waiting = append(waiting, r.ask("gate")) // The route has its share of the worker.
	if got := answer(t, r.ask("deny")); got != "pass" {
		t.Errorf("a route that does not wait: %s", got)
	}
	if got := answer(t, r.ask("open")); got != "pass" {
		t.Errorf("what needs no worker: %s", got)
	}
	select {
	case <-r.entered:
		if tables() == first { // The calls of two tables are counted apart, and the second worker may bring a second table.
			t.Error("a call got by the share")
		}
	default:
	}
	close(r.open)
	if got := answer(t, waiting[0]); got != "pass" {
		t.Errorf("within the limit: %s", got)
	}
	if got := answer(t, waiting[1]); !strings.HasPrefix(got, "403 ") {
		t.Errorf("within the limit, denied: %s", got)
	}
	if got := answer(t, waiting[2]); got != "pass" {
		t.Errorf("after it has waited for room: %s", got)
	}
	eventually(t, "there is room again", func() bool { return answer(t, r.ask("deny")) == "pass" })
	r.end()
}

func TestTimeout(t *testing.T) {
	r := start(t, 2)
	r.ready()
	if got := answer(t, r.ask("short")); !strings.HasPrefix(got, "500 ") || !strings.Contains(got, `"POLICY_TIMEOUT"`) {
		t.Errorf("a policy that is too slow: %s", got)
	}
	r.end()
}

// TestShutdown: what is under way at the end of the drain time is refused, whether its client still waits or not.
func TestShutdown(t *testing.T) {
	r := start(t, 2)
	r.ready()
	waiting, gone := r.ask("gate"), r.ask("gate")
	<-r.entered
	<-r.entered
	if err := gone.CloseSend(); err != nil {
		t.Fatal(err)
	}
	r.end()
	for _, s := range []stream{waiting, gone} {
		if got := answer(t, s); !strings.HasPrefix(got, "error: ") || strings.HasSuffix(got, io.EOF.Error()) {
			t.Errorf("an undecided request ended with %s", got)
		}
	}
}

// TestShutdownUnderLoad: no request that the policy denies passes, whenever it comes.
func TestShutdownUnderLoad(t *testing.T) {
	r := start(t, 2)
	r.ready()
	var clients sync.WaitGroup
	warm := make(chan struct{}, 4)
	for range cap(warm) {
		clients.Go(func() {
			for i := 0; ; i++ {
				s, err := r.tryAsk("deny", "x-deny", "1")
				if err != nil {
					return // Nobody listens any more.
				}
				got := answer(t, s)
				if strings.HasPrefix(got, "error: ") {
					if strings.HasSuffix(got, io.EOF.Error()) {
						t.Error("a clean close without an answer: Envoy would forward the request")
					}
					return
				}
				if !strings.HasPrefix(got, "403 ") && !strings.HasPrefix(got, "503 ") {
					t.Errorf("a request that has to be refused: %s", got)
				}
				if i == 20 {
					warm <- struct{}{}
				}
			}
		})
	}
	for range cap(warm) {
		<-warm
	}
	r.end()
	clients.Wait()
}

// TestMixed: a worker that is not in the process is called on its socket.
func TestMixed(t *testing.T) {
	r := start(t, 1)
	eventually(t, "the table is in use", func() bool { return answer(t, r.ask("open")) == "pass" })
	if got := answer(t, r.ask("there-and-back")); !strings.HasPrefix(got, "503 ") {
		t.Errorf("without worker b: %s", got)
	}
	_, ws, _ := configure(t, r.dir)
	stop := r.serveWorker(ws[1])
	r.ready()
	if got := answer(t, r.ask("there-and-back")); got != "A>B>A" {
		t.Errorf("with worker b on its socket: %s", got)
	}
	stop()
	eventually(t, "its end is noticed", func() bool { code, _ := r.get("/health/ready"); return code == http.StatusServiceUnavailable })
	if got := answer(t, r.ask("there-and-back")); !strings.HasPrefix(got, "503 ") {
		t.Errorf("after the end of worker b: %s", got)
	}
	if got := answer(t, r.ask("deny", "x-deny", "1")); !strings.HasPrefix(got, "403 ") {
		t.Errorf("worker a meanwhile: %s", got)
	}
	r.end()
}

func TestMatchWorkers(t *testing.T) {
	cfg, ws, _ := configure(t, "/nowhere")
	if err := matchWorkers(cfg, ws); err != nil {
		t.Error(err)
	}
	stranger := *ws[1].Config
	stranger.Name, stranger.File = "c", "c.yaml"
	for _, tt := range []struct {
		ws   []Worker
		want string
	}{
		{[]Worker{ws[0], {Config: &stranger}}, `c.yaml: policy_worker.name: "c" is not a worker of kernel.yaml; legal are a, b`},
		{[]Worker{ws[0], ws[0]}, `a.yaml: policy_worker.name: "a" is the name of a.yaml too; legal is one file for a worker`},
	} {
		if err := matchWorkers(cfg, tt.ws); err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
	cfg.Workers = nil
	if err := matchWorkers(cfg, ws[:1]); err == nil || !strings.Contains(fmt.Sprint(err), "which has none") {
		t.Errorf("got %v", err)
	}
}
