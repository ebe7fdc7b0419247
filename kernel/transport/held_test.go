package transport

import (
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/memory"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// TestHeldMemoryComesBack: what a stream that is cancelled leaves unread is not counted any more.
func TestHeldMemoryComesBack(t *testing.T) {
	r := &rig{t: t, evaluator: evaluator{calls: make(chan *route.Call, 2000)}}
	r.startWith(Options{Memory: memory.New(64 << 20), Config: config.Server{Address: "127.0.0.1", MaxConcurrentStreams: 1000}})
	r.client = r.dial(grpc.WithTransportCredentials(insecure.NewCredentials()))
	for range 50 {
		f := r.stream(t.Context())
		f.send("call")
		c := <-r.evaluator.calls
		before := r.server.Held()
		for range 3 { // They wait behind the call, within the window of the stream.
			f.send("answer" + strings.Repeat(" ", 20_000))
		}
		// The transport fast counts messages that wait as bodies (extproc.Budget).
		eventually(t, "the messages have come", func() bool {
			return name() == config.TransportFast || r.server.Held() > before+32<<10
		})
		f.cancel()
		eventually(t, "the stream has ended", func() bool { return r.server.Streams() == 0 })
		r.complete(c, &workerv1.Result{}, nil)
	}
	eventually(t, "nothing is held but the connection", func() bool { return r.server.Held() < 1<<20 })
}
