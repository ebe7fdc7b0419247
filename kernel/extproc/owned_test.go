package extproc

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/fastpath/headername"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// forger plays a client that sends owned headers, Envoy, and workers whose policies run or do not run, in every way.
type forger struct {
	t *rapid.T
	w *world
	m *Machine
	// owners are the policies by the name of the header that each owns; set are the values that owners have set, by that name.
	owners map[string]string
	set    map[string]string
	// upstream is the request as Envoy has it; sent are the headers of the client, trailers its trailers.
	upstream, sent, trailers []headermap.Field
	bodyMode                 bool
	wantsTrailers            bool
}

const forged = "forged"

// owned are the headers that the policies of the test own, each its own.
var owned = []string{"x-user-id", "x-tenant", "x-claim-a"}

func drawSpelling(t *rapid.T) string {
	name := []byte(rapid.SampledFrom(owned).Draw(t, "name"))
	for i, c := range name {
		switch {
		case c == '-':
			name[i] = rapid.SampledFrom([]byte("--------!#$%&'*+.^_`|~")).Draw(t, "character")
		case rapid.IntRange(0, 9).Draw(t, "upper") == 0:
			name[i] = strings.ToUpper(string(c))[0]
		}
	}
	return string(name)
}

func drawForged(t *rapid.T) (fields []headermap.Field) {
	for range rapid.IntRange(0, 4).Draw(t, "forged headers") {
		fields = append(fields, headermap.Field{Name: []byte(drawSpelling(t)), Value: []byte(forged)})
	}
	return fields
}

func encoded(fields []headermap.Field) []*corev3.HeaderValue {
	var out []*corev3.HeaderValue
	for _, f := range fields {
		out = append(out, &corev3.HeaderValue{Key: string(f.Name), RawValue: f.Value})
	}
	return out
}

// apply is a header mutation as Envoy applies it: removals first. Envoy has names in lower case.
func apply(fields []headermap.Field, m *extprocv3.HeaderMutation) []headermap.Field {
	remove := func(name string) {
		fields = slices.DeleteFunc(fields, func(f headermap.Field) bool { return strings.EqualFold(string(f.Name), name) })
	}
	for _, name := range m.GetRemoveHeaders() {
		remove(name)
	}
	for _, h := range m.GetSetHeaders() {
		//lint:ignore SA1019 Envoy 1.36 reads no other.
		if !h.GetAppend().GetValue() {
			remove(h.Header.Key)
		}
		fields = append(fields, headermap.Field{Name: []byte(h.Header.Key), Value: h.Header.RawValue})
	}
	return fields
}

// viewed is the request as a policy of the call sees it: what the client sent, with the changes of the context.
func (f *forger) viewed(c *workerv1.Call) []headermap.Field {
	source, mutations := c.Headers, []*workerv1.Mutation(nil)
	if c.Phase >= responseHeaders {
		source = c.RequestHeaders
	}
	fields, err := headermap.Parse(nil, source)
	if err != nil {
		f.t.Fatal(err)
	}
	var context workerv1.Context
	if err := context.UnmarshalVT(c.Context); err != nil {
		f.t.Fatal(err)
	}
	mutations = context.RequestMutations
	for _, m := range mutations {
		change := &extprocv3.HeaderMutation{RemoveHeaders: []string{m.Name}}
		if m.Kind == workerv1.Mutation_KIND_SET_HEADER {
			change = &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: m.Name, RawValue: m.Value}}}}
		}
		fields = apply(fields, change)
	}
	return fields
}

// check fails if one of fields is an owned header that its owner has not set.
func (f *forger) check(where string, fields []headermap.Field) {
	for _, field := range fields {
		name := headername.Fold(string(field.Name))
		if !slices.Contains(owned, name) {
			continue
		}
		if want, set := f.set[name]; !set || want != string(field.Value) {
			f.t.Fatalf("%s: %s has %q; what its owner has set is %q", where, field.Name, field.Value, want)
		}
	}
}

// work answers a call: the policies run, fail, or skip others.
func (f *forger) work(c *route.Call) (*workerv1.Result, error) {
	call, segment := &c.Message, f.m.segment
	f.check(fmt.Sprintf("a policy of %v", call.Phase), f.viewed(call))
	if isTrailers(call.Phase) && call.Phase < responseHeaders {
		fields, err := headermap.Parse(nil, call.Trailers)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, field := range fields {
			if string(field.Value) == forged {
				f.t.Fatalf("a policy gets the trailer %s", field.Name)
			}
		}
	}
	way := rapid.SampledFrom([]string{
		"continue", "continue", "continue", "skip", "skip by failure", "unavailable", "timeout", "overloaded", "no result", "illegal", "failed", "panic", "policy overloaded", "draining", "deny",
	}).Draw(f.t, "way")
	r := &workerv1.Result{Phase: call.Phase}
	ran := len(segment.Policies)
	switch way {
	case "unavailable":
		return nil, route.ErrUnavailable
	case "timeout":
		return nil, route.ErrTimeout
	case "overloaded":
		return nil, route.ErrOverloaded
	case "no result":
		return nil, nil
	case "illegal":
		r.Outcome = workerv1.Result_OUTCOME_CONTINUE
		r.Mutations = []*workerv1.Mutation{{Kind: workerv1.Mutation_KIND_SET_HEADER, Name: "host"}}
		return r, nil
	case "failed", "panic", "policy overloaded", "draining":
		r.Outcome = workerv1.Result_OUTCOME_FAILED
		r.Failure = map[string]workerv1.Result_Failure{
			"failed": workerv1.Result_FAILURE_POLICY_ERROR, "panic": workerv1.Result_FAILURE_POLICY_PANIC, "draining": workerv1.Result_FAILURE_DRAINING,
			"policy overloaded": workerv1.Result_FAILURE_POLICY_OVERLOADED,
		}[way]
		return r, nil
	case "deny":
		r.Outcome, r.Immediate = workerv1.Result_OUTCOME_IMMEDIATE, &workerv1.ImmediateResponse{Status: 403}
		return r, nil
	case "skip", "skip by failure":
		r.Outcome = workerv1.Result_OUTCOME_SKIP_REMAINING
		ran = rapid.IntRange(0, len(segment.Policies)-1).Draw(f.t, "ends at")
		r.Policy, r.Position = segment.Policies[ran].Name, uint32(segment.Policies[ran].Index)+1
		if way == "skip by failure" {
			r.Failure = workerv1.Result_FAILURE_POLICY_ERROR
		} else {
			ran++
		}
	default:
		r.Outcome = workerv1.Result_OUTCOME_CONTINUE
	}
	// The policies up to the end run; each may fail with on_failure continue, or set what it owns.
	if call.Phase == requestHeaders || call.Phase == requestBody {
		for _, p := range segment.Policies[:ran] {
			for _, name := range owned {
				if f.owners[name] == p.Name && rapid.Bool().Draw(f.t, "sets it") {
					value := "by " + p.Name
					r.Mutations = append(r.Mutations, &workerv1.Mutation{Kind: workerv1.Mutation_KIND_SET_HEADER, Name: name, Value: []byte(value)})
					f.set[name] = value
				}
			}
		}
	}
	var context workerv1.Context
	if err := context.UnmarshalVT(call.Context); err != nil {
		f.t.Fatal(err)
	}
	if call.Phase < responseHeaders && !isTrailers(call.Phase) {
		context.RequestMutations = append(context.RequestMutations, r.Mutations...)
	}
	context.Spent = true // It is not empty.
	if call.WantContext {
		r.Context, _ = context.MarshalVT()
	}
	return r, nil
}

// deliver sends a message, plays the workers, and does to the request what the answer says. It reports whether the exchange goes on.
func (f *forger) deliver(msg *extprocv3.ProcessingRequest) bool {
	bytes, err := proto.Marshal(msg)
	if err != nil {
		f.t.Fatal(err)
	}
	e := f.m.Message(bytes, f.w.now)
	for e.Kind == KindCall {
		r, err := f.work(e.Call)
		e = f.m.Complete(e.Call, r, err, f.w.now)
	}
	if e.Kind == KindFail {
		return false
	}
	answer := new(extprocv3.ProcessingResponse)
	if err := proto.Unmarshal(whole(e), answer); err != nil {
		f.t.Fatal(err)
	}
	if answer.GetImmediateResponse() != nil {
		return false
	}
	f.upstream = apply(f.upstream, answer.GetRequestHeaders().GetResponse().GetHeaderMutation())
	f.upstream = apply(f.upstream, answer.GetRequestBody().GetResponse().GetHeaderMutation())
	f.trailers = apply(f.trailers, answer.GetRequestTrailers().GetHeaderMutation())
	if o := answer.ModeOverride; o != nil {
		f.bodyMode, f.wantsTrailers = o.RequestBodyMode != 0, o.RequestTrailerMode == 1
	}
	f.check("the upstream", f.upstream)
	return e.Kind == KindAnswer
}

func (f *forger) play(routeName string) {
	f.m.Open(routeName, f.w.now)
	defer f.m.Close()
	f.sent = append(drawForged(f.t), headermap.Field{Name: []byte(":path"), Value: []byte("/")}, headermap.Field{Name: []byte(":method"), Value: []byte("POST")})
	f.upstream = slices.Clone(f.sent)
	headers := func(fields []headermap.Field, end bool) *extprocv3.HttpHeaders {
		return &extprocv3.HttpHeaders{Headers: &corev3.HeaderMap{Headers: encoded(fields)}, EndOfStream: end}
	}
	f.bodyMode, f.wantsTrailers = false, false
	goesOn := f.deliver(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: headers(f.sent, false)}})
	if goesOn && f.bodyMode {
		goesOn = f.deliver(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: []byte("x")}}})
	}
	// Envoy may also be set up to send trailers that were not asked for.
	if goesOn && (f.wantsTrailers || rapid.Bool().Draw(f.t, "trailers")) {
		f.trailers = drawForged(f.t)
		trailers := &extprocv3.HttpTrailers{Trailers: &corev3.HeaderMap{Headers: encoded(f.trailers)}}
		if goesOn = f.deliver(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: trailers}}); goesOn {
			for _, field := range f.trailers {
				f.t.Fatalf("the upstream gets the trailer %s: %s", field.Name, field.Value)
			}
		}
	}
	if goesOn {
		status := []headermap.Field{{Name: []byte(":status"), Value: []byte("200")}}
		f.deliver(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: headers(status, true)}})
	}
}

// drawForgery makes a configuration: routes with chains of policies of two workers, three of which own a header each.
func drawForgery(t *rapid.T) *forger {
	f := &forger{t: t, w: newWorld(), owners: map[string]string{}, set: map[string]string{}}
	var names []string
	for i, phases := range []string{"h", "h", "hb", "b", "bt", "h"} {
		name := fmt.Sprintf("p%d", i)
		names = append(names, name)
		if i < 2 {
			f.w.workers = append(f.w.workers, &worker{name: fmt.Sprintf("w%d", i)})
			f.w.kernel.Workers = append(f.w.kernel.Workers, config.WorkerRef{Name: fmt.Sprintf("w%d", i)})
		}
		w := f.w.workers[rapid.IntRange(0, min(i, 1)).Draw(t, "worker")]
		w.policies = append(w.policies, name+"@"+phases)
	}
	for _, name := range owned {
		f.owners[name] = rapid.SampledFrom(names).Draw(t, "owner of "+name)
	}
	for i, w := range f.w.workers {
		w.down = rapid.IntRange(0, 5).Draw(t, "down") == 0
		report := &workerv1.OwnedHeaders{Chain: uint32(i)}
		for name, owner := range f.owners {
			if slices.ContainsFunc(w.policies, func(p string) bool { return strings.HasPrefix(p, owner+"@") }) {
				report.Names = append(report.Names, name)
			}
		}
		f.w.owned[w.name] = append(f.w.owned[w.name], report)
	}
	if rapid.IntRange(0, 4).Draw(t, "unreported") == 0 {
		f.w.unreported = f.w.workers[0].name
	}
	chain := func(longest int) (flow config.Flow) {
		for range rapid.IntRange(0, longest).Draw(t, "length") {
			flow.Chain = append(flow.Chain, config.Policy{
				Name:      rapid.SampledFrom(names).Draw(t, "policy"),
				OnFailure: rapid.SampledFrom([]config.OnFailure{config.OnFailureDeny, config.OnFailureContinue, config.OnFailureContinue, config.OnFailureSkipRemaining}).Draw(t, "on_failure"),
			})
		}
		return flow
	}
	f.w.kernel.Routes = []config.Route{{Name: "r", Request: chain(5), Response: chain(2)}, {Name: "all"}}
	for _, name := range names { // Each policy is of some route, and each worker has a chain.
		f.w.kernel.Routes[1].Request.Chain = append(f.w.kernel.Routes[1].Request.Chain, config.Policy{Name: name})
	}
	f.w.kernel.UnknownRoute = config.UnknownRouteContinue
	return f
}

// TestOwnedHeadersInEveryWay: whatever keeps a policy from running, the upstream and the policies get an owned header only if its owner
// has set it, and the upstream gets none in trailers.
func TestOwnedHeadersInEveryWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawForgery(t)
		f.m = New(f.w.settings(t))
		f.play(rapid.SampledFrom([]string{"r", "r", "r", "other"}).Draw(t, "route"))
	})
}
