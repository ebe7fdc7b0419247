package workers

import (
	"context"

	"google.golang.org/grpc"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// Local is a worker in the kernel's own process: method calls take the place of its sockets.
type Local interface {
	GetWorkerConfig(context.Context, *workerv1.GetWorkerConfigRequest) (*workerv1.GetWorkerConfigResponse, error)
	HealthCheck(context.Context, *workerv1.HealthCheckRequest) (*workerv1.HealthCheckResponse, error)
	PushConfig(context.Context, *workerv1.PushConfigRequest) (*workerv1.PushConfigResponse, error)
	RetireConfig(context.Context, *workerv1.RetireConfigRequest) (*workerv1.RetireConfigResponse, error)
	GetMetrics(context.Context, *workerv1.GetMetricsRequest) (*workerv1.GetMetricsResponse, error)
	GetProfile(context.Context, *workerv1.GetProfileRequest) (*workerv1.GetProfileResponse, error)
	// Evaluate runs a call as route.Evaluator says. If it completes the call after it has returned, it calls afterBatch then.
	Evaluate(c *route.Call, afterBatch func())
	// Room returns how many calls of the same chain are in flight that may wait, and how many more of any chain there is room for.
	Room(c *route.Call) (ofChain, free int64)
}

// evaluateLocal runs a call on the local worker, if there is room for it.
func (w *Worker) evaluateLocal(c *route.Call) error {
	switch ofChain, free := w.local.Room(c); {
	case free <= 0:
		return route.ErrOverloaded
	case ofChain >= w.share(free):
		return route.ErrRouteOverloaded
	}
	w.local.Evaluate(c, w.afterLocal)
	return nil
}

// localPath is what stands in the place of a local worker's socket.
const localPath = "in the kernel's process"

// control is what a session asks its replica.
type control interface {
	GetWorkerConfig(context.Context, *workerv1.GetWorkerConfigRequest, ...grpc.CallOption) (*workerv1.GetWorkerConfigResponse, error)
	HealthCheck(context.Context, *workerv1.HealthCheckRequest, ...grpc.CallOption) (*workerv1.HealthCheckResponse, error)
	PushConfig(context.Context, *workerv1.PushConfigRequest, ...grpc.CallOption) (*workerv1.PushConfigResponse, error)
	RetireConfig(context.Context, *workerv1.RetireConfigRequest, ...grpc.CallOption) (*workerv1.RetireConfigResponse, error)
	GetMetrics(context.Context, *workerv1.GetMetricsRequest, ...grpc.CallOption) (*workerv1.GetMetricsResponse, error)
	GetProfile(context.Context, *workerv1.GetProfileRequest, ...grpc.CallOption) (*workerv1.GetProfileResponse, error)
}

// direct is the control of a local worker.
type direct struct{ local Local }

func (d direct) GetWorkerConfig(ctx context.Context, q *workerv1.GetWorkerConfigRequest, _ ...grpc.CallOption) (*workerv1.GetWorkerConfigResponse, error) {
	return d.local.GetWorkerConfig(ctx, q)
}

func (d direct) HealthCheck(ctx context.Context, q *workerv1.HealthCheckRequest, _ ...grpc.CallOption) (*workerv1.HealthCheckResponse, error) {
	return d.local.HealthCheck(ctx, q)
}

func (d direct) PushConfig(ctx context.Context, q *workerv1.PushConfigRequest, _ ...grpc.CallOption) (*workerv1.PushConfigResponse, error) {
	return d.local.PushConfig(ctx, q)
}

func (d direct) RetireConfig(ctx context.Context, q *workerv1.RetireConfigRequest, _ ...grpc.CallOption) (*workerv1.RetireConfigResponse, error) {
	return d.local.RetireConfig(ctx, q)
}

func (d direct) GetMetrics(ctx context.Context, q *workerv1.GetMetricsRequest, _ ...grpc.CallOption) (*workerv1.GetMetricsResponse, error) {
	return d.local.GetMetrics(ctx, q)
}

func (d direct) GetProfile(ctx context.Context, q *workerv1.GetProfileRequest, _ ...grpc.CallOption) (*workerv1.GetProfileResponse, error) {
	return d.local.GetProfile(ctx, q)
}

var (
	_ control = direct{}
	_ control = workerv1.PolicyWorkerClient(nil)
)
