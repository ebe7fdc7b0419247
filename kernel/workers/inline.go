package workers

import "github.com/policy-engine/policy-engine/kernel/route"

// Inline implements route.InlineEvaluator: a worker in this process runs calls on the goroutine of the caller.
func (w *Worker) Inline() bool { return w.local != nil }

var _ route.InlineEvaluator = (*Worker)(nil)
