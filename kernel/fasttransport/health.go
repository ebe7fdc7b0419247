package fasttransport

import (
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

// maxWatches is how many streams may watch the health at a time.
const maxWatches = 256

// health answers the gRPC health protocol.
type health struct {
	mu       sync.Mutex
	down     bool
	watching map[*watch]struct{}
}

// watch is one stream that wants to hear of changes.
type watch struct {
	health *health
	conn   *h2.Conn
	id     uint32
}

// check is one stream that asks once.
type check struct{ health *health }

func (h *health) open(hs *h2.Stream, watches bool) h2.Receiver {
	if !watches {
		return &check{h}
	}
	h.mu.Lock()
	full := len(h.watching) >= maxWatches
	h.mu.Unlock()
	if full {
		hs.Fail(uint32(codes.ResourceExhausted), "too many health watches")
		return nil
	}
	return &watch{h, hs.Conn(), hs.ID()}
}

// status answers for a service name; ok is false for one that is not ours.
func (h *health) status(request []byte) (answer []byte, ok bool, err error) {
	var q healthv1.HealthCheckRequest
	if err := proto.Unmarshal(request, &q); err != nil {
		return nil, false, err
	}
	status := healthv1.HealthCheckResponse_SERVING
	known := q.Service == "" || q.Service == serviceName
	h.mu.Lock()
	if h.down {
		status = healthv1.HealthCheckResponse_NOT_SERVING
	}
	h.mu.Unlock()
	if !known {
		status = healthv1.HealthCheckResponse_SERVICE_UNKNOWN
	}
	answer, err = proto.Marshal(&healthv1.HealthCheckResponse{Status: status})
	return answer, known, err
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
			if answer, _, err := h.status(nil); err == nil {
				hs.Send(answer)
			}
			hs.Fail(uint32(codes.Unavailable), "the kernel is going away")
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
		hs.Fail(uint32(codes.InvalidArgument), "malformed HealthCheckRequest")
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
		hs.Fail(uint32(codes.InvalidArgument), "malformed HealthCheckRequest")
		return
	}
	w.health.mu.Lock()
	if !w.health.down {
		if w.health.watching == nil {
			w.health.watching = make(map[*watch]struct{})
		}
		w.health.watching[w] = struct{}{}
	}
	w.health.mu.Unlock()
	hs.Send(answer)
}

// HalfClose implements h2.Receiver: a client that watches has nothing more to say.
func (w *watch) HalfClose(*h2.Stream) {}

// Reset implements h2.Receiver.
func (w *watch) Reset(*h2.Stream) {
	w.health.mu.Lock()
	delete(w.health.watching, w)
	w.health.mu.Unlock()
}
