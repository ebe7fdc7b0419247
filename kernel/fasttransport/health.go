package fasttransport

import (
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/policy-engine/policy-engine/fastpath/h2"
)

// The methods of the gRPC health protocol (grpc/health/v1/health.proto).
const (
	healthCheckPath = "/grpc.health.v1.Health/Check"
	healthWatchPath = "/grpc.health.v1.Health/Watch"
	serviceName     = "envoy.service.ext_proc.v3.ExternalProcessor"
)

// maxWatches is how many streams may watch the health at a time, those that have not said yet of what included.
const maxWatches = 256

// health answers the gRPC health protocol.
type health struct {
	mu       sync.Mutex
	down     bool // for good
	away     bool // for now
	watching map[*watch]struct{}
}

// watch is one stream that wants to hear of changes. The lock of its connection guards asked.
type watch struct {
	health *health
	conn   *h2.Conn
	id     uint32
	asked  bool // it has said of what
}

// check is one stream that asks once.
type check struct{ health *health }

func (h *health) open(hs *h2.Stream, watches bool) h2.Receiver {
	if !watches {
		return &check{h}
	}
	w := &watch{health: h, conn: hs.Conn(), id: hs.ID()}
	if code, problem := h.admit(w); code != codes.OK {
		hs.Fail(uint32(code), problem)
		return nil
	}
	return w
}

// admit counts a watch from its beginning, so that one without a message costs its place and does not hold up the drain.
func (h *health) admit(w *watch) (codes.Code, string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.down:
		return codes.Unavailable, goingAway
	case len(h.watching) >= maxWatches:
		return codes.ResourceExhausted, "too many health watches"
	case h.watching == nil:
		h.watching = make(map[*watch]struct{})
	}
	h.watching[w] = struct{}{}
	return codes.OK, ""
}

// goingAway is what streams are told that the drain ends.
const goingAway = "the kernel is going away"

// status answers for a service name; ok is false for one that is not ours.
func (h *health) status(request []byte) (answer []byte, ok bool, err error) {
	var q healthv1.HealthCheckRequest
	if err := proto.Unmarshal(request, &q); err != nil {
		return nil, false, err
	}
	status := healthv1.HealthCheckResponse_SERVING
	known := q.Service == "" || q.Service == serviceName
	h.mu.Lock()
	if h.down || h.away {
		status = healthv1.HealthCheckResponse_NOT_SERVING
	}
	h.mu.Unlock()
	if !known {
		status = healthv1.HealthCheckResponse_SERVICE_UNKNOWN
	}
	answer, err = proto.Marshal(&healthv1.HealthCheckResponse{Status: status})
	return answer, known, err
}

// set says whether the answers are SERVING, and tells those who watch.
func (h *health) set(serving bool) {
	h.mu.Lock()
	changes := h.away == serving
	h.away = !serving
	var watches []*watch
	if changes {
		watches = slices.Collect(maps.Keys(h.watching))
	}
	h.mu.Unlock()
	for _, w := range watches {
		w.conn.Lock()
		if hs := w.conn.Stream(w.id); hs != nil && w.asked {
			if answer, _, err := h.status(nil); err == nil {
				hs.Send(answer)
			}
		}
		w.conn.Unlock()
		w.conn.Flush()
	}
}

// shutdown makes every answer from now on NOT_SERVING and ends the watches, so that they don't hold up the drain.
func (h *health) shutdown() {
	h.mu.Lock()
	h.down = true
	watches := make([]*watch, 0, len(h.watching))
	for w := range h.watching {
		watches = append(watches, w)
	}
	h.watching = nil
	h.mu.Unlock()
	for _, w := range watches {
		w.conn.Lock()
		if hs := w.conn.Stream(w.id); hs != nil {
			if answer, _, err := h.status(nil); err == nil && w.asked {
				hs.Send(answer)
			}
			hs.Fail(uint32(codes.Unavailable), goingAway)
		}
		w.conn.Unlock()
		w.conn.Flush()
	}
}

// Message implements h2.Receiver.
func (c *check) Message(hs *h2.Stream, msg []byte) {
	answer, known, err := c.health.status(msg)
	switch {
	case err != nil:
		hs.Fail(uint32(codes.Internal), "malformed HealthCheckRequest")
	case !known:
		hs.Fail(uint32(codes.NotFound), "unknown service")
	default:
		hs.Finish(answer)
	}
}

// HalfClose implements h2.Receiver.
func (c *check) HalfClose(hs *h2.Stream) { hs.Fail(uint32(codes.Internal), "no HealthCheckRequest") }

// Reset implements h2.Receiver.
func (c *check) Reset(*h2.Stream) {}

// Message implements h2.Receiver.
func (w *watch) Message(hs *h2.Stream, msg []byte) {
	answer, _, err := w.health.status(msg)
	if err != nil {
		w.Reset(hs)
		hs.Fail(uint32(codes.Internal), "malformed HealthCheckRequest")
		return
	}
	w.asked = true
	hs.Send(answer)
}

// HalfClose implements h2.Receiver: a client that watches has nothing more to say.
func (w *watch) HalfClose(hs *h2.Stream) {
	if !w.asked {
		w.Reset(hs)
		hs.Fail(uint32(codes.Internal), "no HealthCheckRequest")
	}
}

// Reset implements h2.Receiver.
func (w *watch) Reset(*h2.Stream) {
	w.health.mu.Lock()
	delete(w.health.watching, w)
	w.health.mu.Unlock()
}
