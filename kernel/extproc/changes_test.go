package extproc

import (
	"fmt"
	"strings"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

func mutation(kind workerv1.Mutation_Kind, name, value string) *workerv1.Mutation {
	return &workerv1.Mutation{Kind: kind, Name: name, Value: []byte(value)}
}

const (
	set    = workerv1.Mutation_KIND_SET_HEADER
	add    = workerv1.Mutation_KIND_APPEND_HEADER
	remove = workerv1.Mutation_KIND_REMOVE_HEADER
)

// translate gives Envoy's view of what becomes of the mutations, one call's after the other's.
func translate(t interface{ Fatal(...any) }, phase workerv1.Phase, calls ...[]*workerv1.Mutation) *extprocv3.CommonResponse {
	var c changes
	for _, mutations := range calls {
		c.add(mutations)
	}
	answer := new(extprocv3.ProcessingResponse)
	if err := proto.Unmarshal((&Machine{phase: phase}).appendHeadersAnswer(nil, phase, &c), answer); err != nil {
		t.Fatal(err)
	}
	if phase == requestHeaders {
		return answer.GetRequestHeaders().GetResponse()
	}
	return answer.GetResponseHeaders().GetResponse()
}

func TestTranslation(t *testing.T) {
	for _, tc := range []struct {
		name  string
		phase workerv1.Phase
		calls [][]*workerv1.Mutation
		want  string
	}{
		{"nothing", requestHeaders, nil, ""},
		{"set", requestHeaders, [][]*workerv1.Mutation{{mutation(set, "a", "1")}}, " set:a=1"},
		{"set to the empty value", requestHeaders, [][]*workerv1.Mutation{{mutation(set, "a", "")}}, " set:a="},
		{"last set wins over calls", requestHeaders, [][]*workerv1.Mutation{{mutation(set, "a", "1")}, {mutation(set, "a", "2")}}, " set:a=2"},
		{"set after remove is a set", requestHeaders, [][]*workerv1.Mutation{{mutation(remove, "a", "")}, {mutation(set, "a", "1")}}, " set:a=1"},
		{"remove after set is a remove", requestHeaders, [][]*workerv1.Mutation{{mutation(set, "a", "1"), mutation(remove, "a", "")}}, " remove:a"},
		{"append after remove does not bring old values back", requestHeaders, [][]*workerv1.Mutation{{mutation(remove, "a", ""), mutation(add, "a", "1")}}, " remove:a append:a=1"},
		{"append after set", requestHeaders, [][]*workerv1.Mutation{{mutation(set, "a", "1"), mutation(add, "a", "2")}}, " set:a=1 append:a=2"},
		{"appends keep their order", requestHeaders, [][]*workerv1.Mutation{{mutation(add, "a", "1"), mutation(add, "a", "2")}}, " append:a=1 append:a=2"},
		{"set after append", requestHeaders, [][]*workerv1.Mutation{{mutation(add, "a", "1"), mutation(set, "a", "2")}}, " set:a=2"},
		{"remove twice", requestHeaders, [][]*workerv1.Mutation{{mutation(remove, "a", ""), mutation(remove, "a", "")}}, " remove:a"},
		{"names are apart", requestHeaders, [][]*workerv1.Mutation{{mutation(set, "a", "1"), mutation(remove, "b", ""), mutation(set, "ab", "2")}}, " remove:b set:a=1 set:ab=2"},
		{"bytes that are not UTF-8", requestHeaders, [][]*workerv1.Mutation{{mutation(set, "a", "\xff\xe9")}}, " set:a=\xff\xe9"},
		{"last path wins", requestHeaders, [][]*workerv1.Mutation{{mutation(workerv1.Mutation_KIND_SET_PATH, "", "/a"), mutation(workerv1.Mutation_KIND_SET_PATH, "", "/b?c")}}, " set::path=/b?c"},
		{"status", responseHeaders, [][]*workerv1.Mutation{{mutation(workerv1.Mutation_KIND_SET_STATUS, "", "503")}}, " set::status=503"},
		{"method", requestHeaders, [][]*workerv1.Mutation{{mutation(workerv1.Mutation_KIND_SET_METHOD, "", "PUT")}}, " set::method=PUT"},
		{"long values", requestHeaders, [][]*workerv1.Mutation{{mutation(set, "a", strings.Repeat("v", 20_000)), mutation(set, "b", strings.Repeat("w", 127))}}, " set:a=" + strings.Repeat("v", 20_000) + " set:b=" + strings.Repeat("w", 127)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			common := translate(t, tc.phase, tc.calls...)
			var got strings.Builder
			showMutation(&got, common.GetHeaderMutation())
			if got.String() != tc.want {
				t.Errorf("got %q, want %q", got.String(), tc.want)
			}
			replace := common.GetStatus() == extprocv3.CommonResponse_CONTINUE_AND_REPLACE
			if replace != (tc.name == "method") || common.GetClearRouteCache() || common.GetBodyMutation() != nil {
				t.Errorf("answer %v", common)
			}
		})
	}
}

// TestTranslationMeansTheSame: applied as Envoy does it (mutation_utils.cc: removals first, then sets and appends in order), an answer has the outcome of the
// mutations applied one after the other.
func TestTranslationMeansTheSame(t *testing.T) {
	names := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		start := map[string][]string{}
		for _, n := range names {
			start[n] = rapid.SliceOfN(rapid.SampledFrom([]string{"old1", "old2"}), 0, 2).Draw(t, "values of "+n)
		}
		var calls [][]*workerv1.Mutation
		want := map[string][]string{}
		for n, v := range start {
			want[n] = append([]string(nil), v...)
		}
		for range rapid.IntRange(0, 3).Draw(t, "calls") {
			var call []*workerv1.Mutation
			for i := range rapid.IntRange(0, 6).Draw(t, "mutations") {
				kind := rapid.SampledFrom([]workerv1.Mutation_Kind{set, add, remove}).Draw(t, "kind")
				name := rapid.SampledFrom(names).Draw(t, "name")
				value := fmt.Sprint(len(calls), i)
				switch kind {
				case set:
					want[name] = []string{value}
				case add:
					want[name] = append(want[name], value)
				default:
					want[name] = nil
				}
				call = append(call, mutation(kind, name, value))
			}
			calls = append(calls, call)
		}
		got := start
		m := translate(t, requestHeaders, calls...).GetHeaderMutation()
		for _, name := range m.GetRemoveHeaders() {
			got[name] = nil
		}
		for _, h := range m.GetSetHeaders() {
			key, value := h.GetHeader().GetKey(), string(h.GetHeader().GetRawValue())
			//lint:ignore SA1019 Envoy 1.36 reads no other.
			if h.GetAppend().GetValue() {
				got[key] = append(got[key], value)
			} else {
				got[key] = []string{value}
			}
		}
		for _, n := range names {
			if fmt.Sprint(got[n]) != fmt.Sprint(want[n]) {
				t.Fatalf("header %s is %v in Envoy, should be %v; %v", n, got[n], want[n], m)
			}
		}
	})
}

// TestChangesKeepTheirOwnBytes: the bytes of a result are valid only during Complete.
func TestChangesKeepTheirOwnBytes(t *testing.T) {
	var c changes
	name, value := []byte("x-user"), []byte("alice")
	m := &workerv1.Mutation{Kind: set, Name: string(name), Value: value}
	c.add([]*workerv1.Mutation{m})
	for i := range 50 { // Make the arena move.
		c.add([]*workerv1.Mutation{mutation(set, fmt.Sprint("y-", i), strings.Repeat("v", i))})
	}
	copy(value, "mallo")
	if got := string(c.list[0].value); got != "alice" {
		t.Errorf("value %q", got)
	}
}
