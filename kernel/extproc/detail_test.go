package extproc

import (
	"strings"
	"testing"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
)

// TestEveryStatusHasADetail: of each decision that no policy explains, operators are told something.
func TestEveryStatusHasADetail(t *testing.T) {
	for _, s := range Statuses() {
		decided := s == StatusAllowed || s == StatusDenied || s == StatusResponded // The policy says why.
		if detail := detailOf(s); (detail == "") != decided || len(detail) > httpsyntax.MaxDetail || httpsyntax.Detail(detail) != detail {
			t.Errorf("%v: detail %q", s, detail)
		}
	}
}

// TestDetailIsForOperators: whatever a worker says in a detail, decisions have it, printable and bounded, and Envoy gets none of it.
func TestDetailIsForOperators(t *testing.T) {
	long := strings.Repeat("x", 300)
	denied := func(detail string) *workerv1.Result {
		return &workerv1.Result{
			Outcome: workerv1.Result_OUTCOME_IMMEDIATE, Policy: "auth", Reason: "scope_missing", Detail: detail,
			Immediate: &workerv1.ImmediateResponse{Status: 403},
		}
	}
	failed := func(f workerv1.Result_Failure, detail string) *workerv1.Result {
		return &workerv1.Result{Outcome: workerv1.Result_OUTCOME_FAILED, Failure: f, Policy: "auth", Detail: detail}
	}
	for name, c := range map[string]struct {
		result *workerv1.Result
		want   string
	}{
		"denied":             {denied("hidden: key m2m"), "hidden: key m2m"},
		"denied, no detail":  {denied(""), ""},
		"too long":           {denied(long), long[:httpsyntax.MaxDetail-len("…")] + "…"},
		"line breaks":        {denied("hidden\r\nx: y\x00"), "hidden??x: y?"},
		"not UTF-8":          {denied("hidden\xff"), "hidden?"},
		"failed":             {failed(workerv1.Result_FAILURE_POLICY_ERROR, "hidden cause"), "hidden cause"},
		"failed, no detail":  {failed(workerv1.Result_FAILURE_POLICY_PANIC, ""), statusDetails[StatusPolicyPanic]},
		"chain did not run":  {failed(workerv1.Result_FAILURE_OVERLOADED, ""), statusDetails[StatusWorkerOverloaded]},
		"illegal result":     {&workerv1.Result{Outcome: workerv1.Result_OUTCOME_CONTINUE, Subject: long + long + long + long, Detail: "hidden"}, errSubject.Error()},
		"skipped":            {&workerv1.Result{Outcome: workerv1.Result_OUTCOME_SKIP_REMAINING, Policy: "auth", Position: 1, Reason: "trusted", Detail: "hidden"}, "hidden"},
		"nothing to explain": {&workerv1.Result{Outcome: workerv1.Result_OUTCOME_CONTINUE, Detail: "hidden"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{}
			for _, line := range []string{"worker w1 auth", "route orders request auth"} {
				if err := w.setUp(strings.Fields(line)); err != nil {
					t.Fatal(err)
				}
			}
			m := New(w.settings(t))
			m.Open("orders", 0)
			raw, err := envoyMessage("request_headers", []string{":method=GET", ":path=/orders"})
			if err != nil {
				t.Fatal(err)
			}
			call := m.Message(raw, 0)
			if call.Kind != KindCall {
				t.Fatalf("effect %v", call.Kind)
			}
			c.result.Phase = call.Call.Message.Phase
			answer := m.Complete(call.Call, c.result, nil, 0)
			if len(w.seen) != 1 || w.seen[0].Detail != c.want {
				t.Errorf("decisions %+v, want the detail %q", w.seen, c.want)
			}
			if strings.Contains(string(whole(answer)), "hidden") || strings.Contains(string(whole(answer)), "xxx") {
				t.Errorf("Envoy gets %q", whole(answer))
			}
			m.Close()
		})
	}
}
