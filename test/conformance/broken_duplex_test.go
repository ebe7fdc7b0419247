package conformance

import (
	"fmt"
	"strings"
	"testing"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/policy-engine/policy-engine/test/tap"
)

// pieceOf is the piece of a body that an answer gives back; nil if it is of another kind.
func pieceOf(m *extprocv3.ProcessingResponse) *extprocv3.BodyMutation {
	if b := m.GetRequestBody(); b != nil {
		return b.GetResponse().GetBodyMutation()
	}
	return m.GetResponseBody().GetResponse().GetBodyMutation()
}

// duplexWays are ways to be broken in full duplex, and who must find out.
var duplexWays = []struct {
	name    string
	falsify func(m *extprocv3.ProcessingResponse) (answers []*extprocv3.ProcessingResponse, falsified bool)
	// grammar is what the tap must say; empty if only what client and upstream see can tell.
	grammar string
}{
	{"a piece is not given back", func(m *extprocv3.ProcessingResponse) ([]*extprocv3.ProcessingResponse, bool) {
		return nil, pieceOf(m) != nil
	}, "closed with OK before the request's body"},
	{"a piece is given back twice", func(m *extprocv3.ProcessingResponse) ([]*extprocv3.ProcessingResponse, bool) {
		return []*extprocv3.ProcessingResponse{m, m}, pieceOf(m) != nil
	}, "after its end"},
	{"a piece is not a piece of a stream", func(m *extprocv3.ProcessingResponse) ([]*extprocv3.ProcessingResponse, bool) {
		piece := pieceOf(m)
		if piece == nil {
			return nil, false
		}
		piece.Mutation = &extprocv3.BodyMutation_Body{Body: piece.GetStreamedResponse().GetBody()}
		return []*extprocv3.ProcessingResponse{m}, true
	}, "wrong form"},
	{"a mode_override", func(m *extprocv3.ProcessingResponse) ([]*extprocv3.ProcessingResponse, bool) {
		m.ModeOverride = &filterv3.ProcessingMode{RequestBodyMode: filterv3.ProcessingMode_FULL_DUPLEX_STREAMED, RequestTrailerMode: filterv3.ProcessingMode_SEND}
		return []*extprocv3.ProcessingResponse{m}, m.GetRequestHeaders() != nil
	}, "mode_override in full duplex"},
	{"the bytes of a piece are lost", func(m *extprocv3.ProcessingResponse) ([]*extprocv3.ProcessingResponse, bool) {
		piece := pieceOf(m)
		if piece == nil {
			return nil, false
		}
		piece.GetStreamedResponse().Body = nil
		return []*extprocv3.ProcessingResponse{m}, true
	}, ""},
	{"nothing", func(*extprocv3.ProcessingResponse) ([]*extprocv3.ProcessingResponse, bool) { return nil, false }, ""},
}

// TestBrokenFullDuplex: a kernel that is broken in full duplex turns scenarios red, and one that is not does not.
func TestBrokenFullDuplex(t *testing.T) {
	var all []*scenario
	way := map[*scenario]int{}
	for i := range duplexWays {
		for name, chain := range map[string][]string{"headers": one("set x-a 1"), "chunks": onChunks("nothing", "body x"), "whole": onBody("set x-a 1")} {
			s := &scenario{
				name: fmt.Sprintf("%s %d", name, i), phase: requestBody, mode: fullDuplex, duplex: true, request: chain, send: send{method: "POST", body: "hello"},
				client: []check{status(200)}, upstream: reached(body("hello")),
			}
			all, way[s] = append(all, s), i
		}
	}
	names, _ := kernelRoutes(all)
	byRoute := map[string]int{}
	for s, i := range way {
		byRoute[names[s.name]] = i
	}
	e := startEngine(t, transports()[0], all, engineOptions{envoy: []string{"--full-duplex", "*"}, falsify: func(a tap.Answer) (tap.Change, bool) {
		answers, falsified := duplexWays[byRoute[a.Route]].falsify(a.Message)
		return tap.Change{Answers: answers}, falsified
	}})
	runs := map[*scenario]*run{}
	performAll(e, all, len(all), func(r *run) { runs[r.s] = r })
	problems := e.Tap.Problems()
	for _, s := range all {
		found := ""
		for _, problem := range problems {
			if strings.Contains(problem, fmt.Sprintf("stream of route %q", names[s.name])) {
				found += problem
			}
		}
		w, seen := duplexWays[way[s]], len(runs[s].problems) > 0
		t.Run(w.name+": "+s.name, func(t *testing.T) {
			switch {
			case w.name == "nothing":
				if seen || found != "" {
					t.Errorf("the kernel as it is: %q, %q", runs[s].problems, found)
				}
			case w.grammar != "" && !strings.Contains(found, w.grammar):
				t.Errorf("the grammar did not find it; it found %q", found)
			case w.grammar == "" && !seen:
				t.Error("neither client nor upstream saw it")
			}
		})
	}
}
