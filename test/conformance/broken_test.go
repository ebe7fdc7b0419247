package conformance

import (
	"fmt"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/policy-engine/policy-engine/test/tap"
)

// brokenTable are scenarios that a kernel which is broken must turn red.
var brokenTable = []scenario{
	{name: "deny", phase: requestHeaders, mode: headersOnly, request: one("deny 403 told_to"), client: []check{refused(403, "TOLD_TO")}, upstream: never},
	{
		name: "change", phase: requestHeaders, mode: headersOnly, request: one("set x-a 1"),
		client: []check{status(200)}, upstream: reached(header("X-A", "1")),
	},
	{
		name: "both", phase: responseHeaders, mode: headersOnly, request: one("set x-a 1"), response: one("set x-b 2"),
		client: []check{status(200), header("X-B", "2")}, upstream: reached(header("X-A", "1")),
	},
	{
		name: "body", phase: requestBody, mode: buffered, request: []string{policy("editBodyA", "body changed")}, send: send{method: "POST", body: "hello"},
		client: []check{status(200)}, upstream: reached(body("changed")),
	},
}

// ways are five ways to be broken, and who must find out.
var ways = []struct {
	name    string
	falsify func(m *extprocv3.ProcessingResponse) tap.Change
	// grammar is what the tap must say; empty if only what client and upstream see can tell.
	grammar string
}{
	{"an answer is dropped", func(*extprocv3.ProcessingResponse) tap.Change { return tap.Change{Mute: true} }, "no answer within"},
	{"an answer is given twice", func(m *extprocv3.ProcessingResponse) tap.Change {
		return tap.Change{Answers: []*extprocv3.ProcessingResponse{m, m}}
	}, "twice|after an immediate response"},
	{"an answer is of the wrong kind", func(m *extprocv3.ProcessingResponse) tap.Change {
		return tap.Change{Answers: []*extprocv3.ProcessingResponse{{Response: &extprocv3.ProcessingResponse_ResponseTrailers{ResponseTrailers: &extprocv3.TrailersResponse{}}}}}
	}, "the wrong kind"},
	{"the stream is closed with OK in place of an answer", func(*extprocv3.ProcessingResponse) tap.Change { return tap.Change{Close: true} }, "closed with OK before"},
	{"all is allowed", func(m *extprocv3.ProcessingResponse) tap.Change {
		return tap.Change{Answers: []*extprocv3.ProcessingResponse{allowing(m)}}
	}, ""},
}

// allowing is an answer that lets pass what the given one decides, and changes nothing.
func allowing(m *extprocv3.ProcessingResponse) *extprocv3.ProcessingResponse {
	out := &extprocv3.ProcessingResponse{ModeOverride: m.GetModeOverride()}
	switch m.GetResponse().(type) {
	case *extprocv3.ProcessingResponse_ResponseHeaders:
		out.Response = &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{}}
	case *extprocv3.ProcessingResponse_RequestBody:
		out.Response = &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{}}
	default:
		out.Response = &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{}}
	}
	return out
}

// TestBrokenKernel: a kernel that is broken turns scenarios red. Its answers are falsified on their way to Envoy, in another way on each route; at the end of the table, each
// scenario runs once more with the kernel as it is.
func TestBrokenKernel(t *testing.T) {
	type victim struct {
		way  int // len(ways): none
		last bool
		s    *scenario
	}
	var all []*scenario
	var victims []victim
	for way := range len(ways) + 1 {
		for i := range brokenTable {
			for _, last := range []bool{false, true} {
				s := brokenTable[i]
				s.name = fmt.Sprintf("%s %d %v", s.name, way, last)
				if way == len(ways) && last || last && !twoAnswers(&s) {
					continue
				}
				all = append(all, &s)
				victims = append(victims, victim{way, last, &s})
			}
		}
	}
	byRoute := map[string]victim{}
	names, _ := kernelRoutes(all)
	for _, v := range victims {
		byRoute[names[v.s.name]] = v
	}
	e := startEngine(t, transports()[0], all, engineOptions{falsify: func(a tap.Answer) (tap.Change, bool) {
		v := byRoute[a.Route]
		if v.way == len(ways) || v.last && a.Index == 0 {
			return tap.Change{}, false
		}
		return ways[v.way].falsify(a.Message), true
	}})
	runs := map[*scenario]*run{}
	performAll(e, all, len(all), func(r *run) { runs[r.s] = r })
	problems := e.Tap.Problems()
	found := func(route, any string) bool {
		for _, problem := range problems {
			if !strings.Contains(problem, fmt.Sprintf("stream of route %q", route)) {
				continue
			}
			for text := range strings.SplitSeq(any, "|") {
				if strings.Contains(problem, text) {
					return true
				}
			}
		}
		return false
	}
	for _, v := range victims {
		r := runs[v.s]
		if v.way == len(ways) {
			t.Run("control: "+v.s.name, func(t *testing.T) {
				if len(r.problems) > 0 || found(r.route, "") {
					t.Errorf("the kernel as it is: %q", r.problems)
				}
			})
			continue
		}
		way := ways[v.way]
		t.Run(way.name+": "+v.s.name, func(t *testing.T) {
			if way.grammar != "" && !found(r.route, way.grammar) {
				t.Errorf("the grammar did not find it; it found %q", problems)
			}
			if way.grammar == "" && len(r.problems) == 0 {
				t.Error("neither client nor upstream saw it")
			}
		})
	}
}

// twoAnswers: the scenario has a second answer that can be false.
func twoAnswers(s *scenario) bool { return len(s.response) > 0 || s.mode == buffered }

// TestTheTapForges: the changes that the tap makes of an answer reach Envoy as they are, so what it falsifies is all that is false.
func TestTheTapForges(t *testing.T) {
	s := &scenario{
		name: "forged", phase: requestHeaders, mode: headersOnly, request: one("set x-a 1"),
		client: []check{status(200)}, upstream: reached(header("X-A", "forged")),
	}
	e := startEngine(t, transports()[0], []*scenario{s}, engineOptions{falsify: func(a tap.Answer) (tap.Change, bool) {
		a.Message.GetRequestHeaders().GetResponse().GetHeaderMutation().SetHeaders[0].Header = &corev3.HeaderValue{Key: "x-a", RawValue: []byte("forged")}
		return tap.Change{Answers: []*extprocv3.ProcessingResponse{a.Message}}, true
	}})
	performAll(e, []*scenario{s}, 1, func(r *run) {
		for _, problem := range append(r.problems, e.Tap.Problems()...) {
			t.Error(problem)
		}
	})
}
