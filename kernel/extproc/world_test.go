package extproc

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// worker is an evaluator that only tells its name and health: the test delivers the outcomes.
type worker struct {
	name      string
	down      bool
	policies  []string
	undiscovd bool
}

func (w *worker) Name() string         { return w.name }
func (w *worker) Available() bool      { return !w.down }
func (w *worker) Evaluate(*route.Call) { panic("the machine does no I/O") }

// world is what surrounds a machine: settings, routes, an observer, a clock.
type world struct {
	kernel     config.Kernel
	workers    []*worker
	noTable    bool
	owned      map[string][]*workerv1.OwnedHeaders // by worker; unreported is one that has not reported them
	unreported string
	bodies     *Budget
	store      *route.Store
	retired    int
	now        Instant
	call       *route.Call
	decisions  []string
	seen       []Decision
	closed     bool
	kinds      []Kind
	answers    []*extprocv3.ProcessingResponse
}

func newWorld() *world {
	return &world{kernel: config.Kernel{UnknownRoute: config.UnknownRouteDeny}, bodies: NewBudget(2 * maxTestBody), owned: make(map[string][]*workerv1.OwnedHeaders)}
}

func (w *world) setUp(line []string) error {
	switch line[0] {
	case "worker":
		wk := &worker{name: line[1]}
		for _, p := range line[2:] {
			switch p {
			case "down":
				wk.down = true
			case "undiscovered":
				wk.undiscovd = true
			default:
				wk.policies = append(wk.policies, p)
			}
		}
		w.workers = append(w.workers, wk)
		w.kernel.Workers = append(w.kernel.Workers, config.WorkerRef{Name: wk.name})
	case "route":
		r := config.Route{Name: line[1]}
		flow := &r.Request
		for _, p := range line[2:] {
			switch p {
			case "request":
				flow = &r.Request
			case "response":
				flow = &r.Response
			case "buffered_body", "streaming", "headers_only":
				flow.Mode = config.ProcessingMode(p)
			default:
				name, onFailure, _ := strings.Cut(p, ":")
				flow.Chain = append(flow.Chain, config.Policy{Name: name, OnFailure: config.OnFailure(onFailure)})
			}
		}
		w.kernel.Routes = append(w.kernel.Routes, r)
	case "unreported":
		w.unreported = line[1]
	case "keep_on":
		w.kernel.IdentityHeaders.KeepOn = line[1:]
	case "credentials": // WORKER NAMES
		w.owned[line[1]] = append(w.owned[line[1]], &workerv1.OwnedHeaders{Credentials: line[2:]})
	case "replaced": // WORKER CHAIN POLICY NAMES
		chain, _ := strconv.ParseUint(line[2], 10, 32)
		policy, _ := strconv.ParseUint(line[3], 10, 32)
		w.owned[line[1]] = append(w.owned[line[1]], &workerv1.OwnedHeaders{Chain: uint32(chain), Policy: uint32(policy), Replaced: line[4:]})
	case "owned": // WORKER CHAIN POLICY NAMES
		chain, _ := strconv.ParseUint(line[2], 10, 32)
		policy, _ := strconv.ParseUint(line[3], 10, 32)
		w.owned[line[1]] = append(w.owned[line[1]], &workerv1.OwnedHeaders{Chain: uint32(chain), Policy: uint32(policy), Names: line[4:]})
	case "unknown_route":
		w.kernel.UnknownRoute = config.UnknownRoute(line[1])
		if len(line) > 2 {
			w.kernel.RouteNotFoundStatus, _ = strconv.Atoi(line[2])
		}
	case "refusals":
		w.kernel.Refusals.Format = config.RefusalFormat(line[1])
	case "template":
		status, _ := strconv.Atoi(line[1])
		w.kernel.Refusals.Templates = append(w.kernel.Refusals.Templates, config.RefusalTemplate{
			Status: status, ContentType: line[2], Body: strings.Join(line[3:], " "),
		})
	case "no_table":
		w.noTable = true
	default:
		return fmt.Errorf("unknown set-up %q", line[0])
	}
	return nil
}

// maxTestBody is the longest whole body that tests take, in bytes.
const maxTestBody = 64

// descriptorOf reads "name" of a policy of the header phases, or "name@LETTERS" with its phases in both directions: h headers, b the whole body, c chunks, t
// trailers; d: it wants bodies decoded, r: it only reads them.
func descriptorOf(word string) *workerv1.PolicyDescriptor {
	name, letters, ok := strings.Cut(word, "@")
	if !ok {
		letters = "h"
	}
	d := &workerv1.PolicyDescriptor{Name: name}
	for _, direction := range []workerv1.Phase{requestHeaders, responseHeaders} {
		for i, phases := range []string{"h", "bc", "t"} {
			if strings.ContainsAny(letters, phases) {
				d.Phases = append(d.Phases, direction+workerv1.Phase(i))
			}
		}
	}
	d.NeedsWholeRequestBody = strings.Contains(letters, "b")
	d.NeedsWholeResponseBody = d.NeedsWholeRequestBody
	d.DecodesBodies, d.ReadsBodiesOnly = strings.Contains(letters, "d"), strings.Contains(letters, "r")
	return d
}

func (w *world) settings(t interface{ Fatal(...any) }) *Settings {
	jsonType := config.Header{Name: "content-type", Value: "application/json"}
	if w.kernel.Limits.MaxBodySize == 0 {
		w.kernel.Limits.MaxBodySize = maxTestBody
	}
	w.kernel.PolicyNotSupported = config.ImmediateResponse{Status: 500, Headers: []config.Header{jsonType}, Body: []byte(`{"code":"POLICY_NOT_SUPPORTED"}`)}
	w.kernel.WorkerUnavailable = config.ImmediateResponse{
		Status: 503, Headers: []config.Header{{Name: "retry-after", Value: "30"}, jsonType}, Body: []byte(`{"code":"WORKER_UNAVAILABLE"}`),
	}
	w.store = route.NewStore(route.TermsOf(&w.kernel), func(uint64) { w.retired++ })
	if !w.noTable {
		var offers []route.Offer
		for _, wk := range w.workers {
			o := route.Offer{Worker: wk, Timeout: 500 * time.Millisecond, Discovered: !wk.undiscovd}
			for _, p := range wk.policies {
				o.Policies = append(o.Policies, descriptorOf(p))
			}
			offers = append(offers, o)
		}
		table, _, err := route.Compile(7, &w.kernel, offers)
		if err != nil {
			t.Fatal(err)
		}
		for _, wk := range w.workers {
			if wk.name != w.unreported {
				table.Report(wk.name, w.owned[wk.name])
			}
		}
		w.store.Swap(table)
	}
	return &Settings{Bodies: w.bodies, Routes: w.store, Observer: w, Tracer: strictTracer{}}
}

// checkReleased replaces the table: nobody must hold it any more.
func (w *world) checkReleased(t interface{ Errorf(string, ...any) }) {
	if used := w.bodies.Used(); used != 0 {
		t.Errorf("%d bytes of bodies are still counted", used)
	}
	if w.store == nil || w.noTable {
		return
	}
	next, _, err := route.Compile(8, &config.Kernel{}, nil)
	if err != nil {
		t.Errorf("%v", err)
		return
	}
	w.store.Swap(next)
	if w.retired != 1 {
		t.Errorf("the table was retired %d times after the last stream was closed", w.retired)
	}
}

// Decided implements Observer.
func (w *world) Decided(d *Decision) {
	s := fmt.Sprintf("%v %v route=%s", d.Status, phaseName(d.Phase), d.RouteName)
	if d.Route == nil {
		s += "(unknown)"
	}
	if d.Worker != nil {
		s += " worker=" + d.Worker.Worker.Name()
	}
	for _, kv := range [][2]string{{"policy", d.Policy}, {"reason", d.Reason}, {"id", string(d.RequestID)}} {
		if kv[1] != "" {
			s += " " + kv[0] + "=" + kv[1]
		}
	}
	if d.OfRequest != (d.Phase == requestHeaders) {
		s += fmt.Sprintf(" of_request=%v", d.OfRequest)
	}
	if d.Tolerated != StatusNone {
		s += " tolerated=" + d.Tolerated.String()
	}
	w.decisions = append(w.decisions, fmt.Sprintf("%s %v", s, d.Elapsed))
	w.seen = append(w.seen, *d)
}

func phaseName(p workerv1.Phase) string {
	return strings.ToLower(strings.TrimPrefix(p.String(), "PHASE_"))
}
