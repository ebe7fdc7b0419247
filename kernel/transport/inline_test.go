package transport

import (
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
)

// TestCompletedWithinEvaluate: an evaluator in the kernel's process completes calls before Evaluate returns, on the goroutine that started them: those of many messages
// and streams of one read, and those that a completion leads to.
func TestCompletedWithinEvaluate(t *testing.T) {
	r := newRig(t)
	r.evaluator.inline = true
	const streams, messages = 50, 20
	var clients sync.WaitGroup
	for range streams {
		f := r.stream(t.Context())
		clients.Go(func() {
			for range messages {
				f.send("call and answer") // It does not wait for the answer.
			}
			f.send("three calls")
			for range messages {
				f.expect("answered")
			}
			f.expect("evaluated")
			f.expectEnd(codes.OK)
		})
	}
	clients.Wait()
	r.expectIdle(streams)
	if n := r.log.count("complete"); n != streams*(messages+3) {
		t.Errorf("%d completions, want %d", n, streams*(messages+3))
	}
}
