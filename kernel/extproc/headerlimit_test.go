package extproc

import (
	"fmt"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/fastpath/headermap"
)

// many are so many header fields of a message.
func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, " h%d=v", i)
	}
	return b.String()
}

// TestHeadersBeyondEnvoysLimit: in each phase and mode, changes that Envoy would not take are a refusal, which is counted as too_large, and those that it takes pass.
func TestHeadersBeyondEnvoysLimit(t *testing.T) {
	const ok = "result CONTINUE context=c"
	for _, tc := range []struct {
		name, route, request string // without the fields; the policy is auth
		events               []string
		room                 int // how many fields may come
		status               int
	}{
		{"request", "request auth@h", "request_headers :method=GET :path=/", []string{ok + " set:x-a=1"}, 97, 431},
		{"request, replaced", "request auth@h", "request_headers :method=GET :path=/", []string{ok + " set:h1=1 append:h2=2"}, 97, 431},
		{"request, removed", "request auth@h", "request_headers :method=GET :path=/", []string{ok + " remove:h1 remove:h2"}, 100, 431},
		{"request, joined", "request auth@h", "request_headers :method=GET :path=/ accept=a", []string{ok + " append:accept=b"}, 97, 431},
		{"request, unchanged", "request auth@h", "request_headers :method=GET :path=/", []string{ok}, 1000, 431},
		{"response", "response auth@h", "response_headers :status=200", []string{ok + " set:x-a=1"}, 98, 502},
		{"response, unchanged", "response auth@h", "response_headers :status=200", []string{ok}, 1000, 502},
		{"whole body", "request auth@hb", "request_headers :method=POST :path=/", []string{ok + " set:x-a=1 remove:h1", "request_body body=x end_of_stream", ok + " set:x-b=1"}, 97, 431},
		{"whole body, same", "request auth@hb", "request_headers :method=POST :path=/", []string{ok + " set:x-a=1", "request_body body=x end_of_stream", ok + " set:x-a=2"}, 97, 431},
		{
			"withheld", "request auth@hb", "request_headers full_duplex :method=POST :path=/",
			[]string{ok + " set:x-a=1", "request_body body=x end_of_stream", ok + " set:x-b=1"},
			96, 431,
		},
	} {
		for n, passes := range map[int]bool{tc.room: true, tc.room + 1: false} {
			if !passes && strings.Contains(tc.name, "unchanged") {
				continue
			}
			t.Run(fmt.Sprintf("%s, %d", tc.name, n), func(t *testing.T) {
				w := newWorld()
				for _, line := range []string{"worker w1 " + strings.Fields(tc.route)[1], "route orders " + strings.ReplaceAll(strings.ReplaceAll(tc.route, "@hb", ""), "@h", "")} {
					if err := w.setUp(words(line)); err != nil {
						t.Fatal(err)
					}
				}
				m := New(w.settings(t))
				events := append([]string{"open orders", tc.request + many(n)}, tc.events...)
				if strings.HasPrefix(tc.request, "response") {
					events = append([]string{"open orders", "request_headers :method=GET :path=/ end_of_stream"}, events[1:]...)
				}
				shown := ""
				for _, event := range events {
					w.now += 1e6
					var err error
					if shown, err = w.deliver(m, words(event)); err != nil {
						t.Fatalf("%.60s: %v", event, err)
					}
					if strings.Contains(shown, "immediate") {
						break
					}
				}
				last := w.decisions[len(w.decisions)-1]
				refused := strings.Contains(shown, fmt.Sprintf("immediate %d", tc.status)) && strings.HasPrefix(last, "too_large ")
				if allowed := strings.HasPrefix(last, "allowed ") && !strings.Contains(shown, "immediate"); allowed != passes || refused == passes {
					t.Errorf("passes %v, want %v: %.300s, %s", allowed, passes, shown, last)
				}
				m.Close()
				w.checkReleased(t)
			})
		}
	}
}

// TestResultOfChanges: what a header map becomes is counted as Envoy counts it.
func TestResultOfChanges(t *testing.T) {
	fields := []headermap.Field{{Name: []byte("a"), Value: []byte("12")}, {Name: []byte("a"), Value: []byte("3")}, {Name: []byte("via"), Value: []byte("x")}, {Name: []byte("accept")}}
	for _, tc := range []struct {
		changes     string
		count, size int
	}{
		{"", 4, 1 + 2 + 1 + 1 + 4 + 6},
		{"set:a=4", 3, 2 + 4 + 6},
		{"append:a=4", 5, 15 + 2},
		{"remove:a", 2, 4 + 6},
		{"remove:a append:a=4", 3, 10 + 2},
		{"append:via=yy", 4, 15 + 3},
		{"append:accept=yy", 4, 15 + 2},
		{"append:via=", 4, 15},
		{"set:via=yyy", 4, 15 + 2},
		{"remove:b set:b=1 remove:b", 4, 15},
	} {
		var c changes
		if tc.changes != "" {
			c.add(mustResult(t, "CONTINUE "+tc.changes).Mutations)
		}
		r := newResult(fields, requestHeaders)
		r.apply(&c)
		if r.count != tc.count || r.size != tc.size {
			t.Errorf("%q: %d fields of %d bytes, want %d of %d", tc.changes, r.count, r.size, tc.count, tc.size)
		}
	}
}
