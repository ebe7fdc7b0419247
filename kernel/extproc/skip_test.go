package extproc

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestSkippedBodies: whatever policies, of two workers, skip the body of a response, the calls of the body, its mode,
// its content-length and the refusal of an unknown coding follow from those that are left.
func TestSkippedBodies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type policy struct {
			name, letters, worker string
			place                 int // in its chain
			skips                 bool
		}
		var list []*policy
		last, place := "", 0
		for i := range rapid.IntRange(1, 5).Draw(t, "policies") {
			p := &policy{
				name:    fmt.Sprintf("p%d", i),
				letters: rapid.SampledFrom([]string{"h", "hc", "hcr", "hcd", "hcdr", "c"}).Draw(t, "letters"),
				worker:  rapid.SampledFrom([]string{"w1", "w2"}).Draw(t, "worker"),
			}
			if p.worker != last {
				last, place = p.worker, 0
			}
			p.place, place = place, place+1
			p.skips = p.letters != "h" && p.letters != "c" && rapid.Bool().Draw(t, "skips")
			list = append(list, p)
		}
		w := newWorld()
		route := "route r response"
		offers := map[string]string{"w1": "worker w1", "w2": "worker w2"}
		for _, p := range list {
			route += " " + p.name
			offers[p.worker] += " " + p.name + "@" + p.letters
		}
		for _, line := range []string{offers["w1"], offers["w2"], route} {
			if err := w.setUp(words(line)); err != nil {
				t.Fatal(err)
			}
		}
		m := New(w.settings(t))
		deliver := func(event string) string {
			w.now += 1e6
			shown, err := w.deliver(m, words(event))
			if err != nil {
				t.Fatalf("%s: %v", event, err)
			}
			return shown
		}
		deliver("open r")
		deliver("request_headers :method=GET :path=/ end_of_stream")
		coding := rapid.SampledFrom([]string{"", " content-encoding=gzip", " content-encoding=compress"}).Draw(t, "coding")
		shown := deliver("response_headers :status=200 content-length=2" + coding)
		// The calls of the header phase, chain by chain.
		for i := 0; i < len(list); {
			j, skips, inHeaders := i, []string(nil), false
			for ; j < len(list) && (j == i || list[j].place > 0); j++ {
				inHeaders = inHeaders || list[j].letters != "c"
				if list[j].skips {
					skips = append(skips, fmt.Sprint(list[j].place))
				}
			}
			if inHeaders {
				if !strings.HasPrefix(shown, "call "+list[i].worker+" ") || !strings.Contains(shown, "response_headers") {
					t.Fatalf("%s, want the call of %s", shown, list[i].worker)
				}
				result := "result CONTINUE context=c"
				if len(skips) > 0 {
					result += " skips=" + strings.Join(skips, ",")
				}
				shown = deliver(result)
			}
			i = j
		}
		takes, replaces, decodes := 0, false, false
		var calls []string
		for i, p := range list {
			if p.letters == "h" || p.skips {
				continue
			}
			takes++
			replaces, decodes = replaces || !strings.Contains(p.letters, "r"), decodes || strings.Contains(p.letters, "d")
			// The policies of a chain are one call.
			if first := i - p.place; len(calls) == 0 || calls[len(calls)-1] != fmt.Sprint(p.worker, first) {
				calls = append(calls, fmt.Sprint(p.worker, first))
			}
		}
		switch {
		case takes > 0 && decodes && strings.Contains(coding, "compress"):
			if !strings.Contains(shown, "immediate 502") || !strings.Contains(shown, "BODY_CODING") {
				t.Fatalf("an unknown coding: %s", shown)
			}
			return
		case takes == 0:
			if !strings.HasPrefix(shown, "finish response_headers") || strings.Contains(shown, "remove:") || strings.Contains(shown, "BodyMode") {
				t.Fatalf("nobody takes part in the body: %s", shown)
			}
			return
		}
		whole := strings.Contains(shown, `"responseBodyMode":"BUFFERED"`)
		if streamed := strings.Contains(shown, `"responseBodyMode":"STREAMED"`); streamed == whole || strings.Contains(shown, "remove:content-length") != (replaces && streamed) {
			t.Fatalf("replaces %v: %s", replaces, shown)
		}
		shown = deliver("response_body body=ok end_of_stream")
		for _, call := range calls {
			if !strings.HasPrefix(shown, "call "+call[:2]+" ") {
				t.Fatalf("%s, want a call of %s", shown, call)
			}
			shown = deliver("result CONTINUE context=c")
		}
		if !strings.HasPrefix(shown, "finish response_body") {
			t.Fatalf("after %d calls: %s", len(calls), shown)
		}
		m.Close()
		w.checkReleased(t)
	})
}
