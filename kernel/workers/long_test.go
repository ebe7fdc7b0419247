package workers

import (
	"errors"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// TestLongCallsHoldUpNoOthers: long calls for which their connection has no room wait in the kernel. They do not get onto
// the connection of short calls, where these would wait for them.
func TestLongCallsHoldUpNoOthers(t *testing.T) {
	for _, together := range []bool{false, true} {
		_, w := setup(t, func(r *config.WorkerRef) { r.Connections, r.Timeout = 2, 20*time.Second }, socketPath(t))
		s := newSession(w.replicas[0], nil)
		s.capacity = maxInFlight
		s.held.Store(&[]uint64{5})
		// Nothing is ever read from these connections.
		tg := target{session: s, conns: []*conn{newConn(nil, time.Hour, func() {}), newConn(nil, time.Hour, func() {})}}
		w.targets.Store(&[]target{tg})
		const size = 1 << 20
		var all []*route.Call
		for i := range 2*maxWaiting/size + 10 {
			p := newProbe(t, 5)
			if i%4 > 0 {
				p.Message.Body = make([]byte, size)
			}
			p.Progress = route.Progress{Deadline: w.now() + time.Hour}
			all = append(all, &p.Call)
		}
		taken := 0
		for rest := all; len(rest) > 0; {
			n := 0
			if together {
				n = tg.pick(isLong(rest[0])).submitAll(s, rest, w.now(), maxInFlight)
			}
			if n == 0 {
				_, err := w.placeQuietly(rest[0], w.now(), nil)
				switch {
				case err == nil:
					taken++
				case !isLong(rest[0]), !errors.Is(err, route.ErrOverloaded):
					t.Fatalf("together: %v, a call of %d bytes: %v", together, len(rest[0].Message.Body), err)
				}
				n = 1
			} else {
				taken += n
			}
			rest = rest[n:]
		}
		if n := tg.conns[0].long.Load(); n != 0 {
			t.Errorf("together: %v: %d long calls are among the short ones", together, n)
		}
		if n, long := tg.conns[1].inFlight.Load(), tg.conns[1].long.Load(); n != long || long == 0 {
			t.Errorf("together: %v: %d of %d calls are long on the last connection", together, long, n)
		}
		if taken == len(all) {
			t.Errorf("together: %v: all calls found room, and the test shows nothing", together)
		}
		for _, c := range tg.conns {
			c.close(route.ErrUnavailable)
			if n := c.long.Load(); n != 0 {
				t.Errorf("together: %v: %d long calls are left", together, n)
			}
		}
	}
}
