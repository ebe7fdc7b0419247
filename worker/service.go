package worker

import (
	"bytes"
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/limits"
	"github.com/policy-engine/policy-engine/worker/chain"
)

// service is the worker's protocol.
type service struct {
	workerv1.UnimplementedPolicyWorkerServer

	name       string
	version    string
	instanceID uint64
	registry   *Registry
	core       *core
	env        *environment
	keySets    keySets
	keyFiles   keyFiles
	observers  func() *observers
	maxBatch   int
	// pushing has a token for the push that may compile now: one at a time.
	pushing chan struct{}
}

// GetWorkerConfig implements the protocol.
func (s *service) GetWorkerConfig(context.Context, *workerv1.GetWorkerConfigRequest) (*workerv1.GetWorkerConfigResponse, error) {
	return &workerv1.GetWorkerConfigResponse{
		MaxConcurrentRequests: uint32(s.core.maxWaiting),
		Name:                  s.name, Version: s.version, InstanceId: s.instanceID, Policies: s.registry.descriptors,
		Unready: s.keySets.unready(),
	}, nil
}

// HealthCheck implements the protocol.
func (s *service) HealthCheck(_ context.Context, req *workerv1.HealthCheckRequest) (*workerv1.HealthCheckResponse, error) {
	resp := &workerv1.HealthCheckResponse{
		Status: workerv1.HealthCheckResponse_STATUS_SERVING, InstanceId: s.instanceID,
		InFlight: uint32(s.core.inFlight.Load()), Unready: s.keySets.unready(),
		Warnings: append(s.keyFiles.warnings(), s.keySets.warnings()...),
	}
	if s.core.leaving.Load() || s.core.draining.Load() || resp.Unready != "" {
		resp.Status = workerv1.HealthCheckResponse_STATUS_NOT_SERVING
	}
	if id := req.GetKernelId(); id != 0 {
		resp.Generations = s.core.generations.renew(id)
	}
	return resp, nil
}

// PushConfig implements the protocol.
func (s *service) PushConfig(ctx context.Context, req *workerv1.PushConfigRequest) (*workerv1.PushConfigResponse, error) {
	if req.GetKernelId() == 0 {
		return nil, status.Error(codes.InvalidArgument, "kernel_id is 0: a generation needs a kernel that renews its lease")
	}
	select {
	case s.pushing <- struct{}{}:
		defer func() { <-s.pushing }()
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if held := s.core.generations.get(req.GetGeneration()); held != nil {
		if held.kernel.id != req.GetKernelId() {
			return nil, status.Errorf(codes.AlreadyExists, "generation %d is another kernel's", req.GetGeneration())
		}
		s.core.generations.renew(req.GetKernelId())
		return &workerv1.PushConfigResponse{OwnedHeaders: held.owned}, nil
	}
	if s.core.leaving.Load() || s.core.draining.Load() {
		return nil, errDraining
	}
	g, problems, err := s.compile(ctx, req)
	switch {
	case err != nil:
		return nil, status.FromContextError(err).Err()
	case len(problems) > 0:
		return &workerv1.PushConfigResponse{Errors: problems}, nil
	case !s.core.generations.add(req.GetKernelId(), g):
		g.release()
		return nil, errDraining
	}
	context.AfterFunc(ctx, limits.Trim) // When the call has ended: then what was pushed is garbage.
	s.env.log.Info("generation added", "generation", g.id, "kernel", req.GetKernelId(), "chains", len(g.chains))
	return &workerv1.PushConfigResponse{OwnedHeaders: g.owned}, nil
}

// compile leaves the processors to the requests of the kernel, if it has a generation for them. Until then they wait for this one.
func (s *service) compile(ctx context.Context, req *workerv1.PushConfigRequest) (g *generation, problems []*workerv1.ConfigError, err error) {
	work := func() { g, problems, err = compile(ctx, s.newCompiler(req), req) }
	if len(s.core.generations.renew(req.GetKernelId())) > 0 {
		limits.Aside(work)
		return g, problems, err
	}
	defer limits.Busy()()
	work()
	return g, problems, err
}

var errDraining = status.Error(codes.Unavailable, "the worker stops")

func (s *service) newCompiler(req *workerv1.PushConfigRequest) *compiler {
	g := &generation{
		id: req.GetGeneration(), chains: make(map[uint32]*chain.Chain, len(req.GetChains())),
		log: s.env.log, shared: s.env.shared, using: make(map[sharedKey]*sharedValue), freed: make(chan struct{}),
	}
	g.holds.Store(1)
	return &compiler{registry: s.registry, env: s.env, generation: g, observers: s.observers(), places: make(map[place]int)}
}

// RetireConfig implements the protocol. It returns when all that the generation had is closed, or with an error when ctx ends; then that happens later.
func (s *service) RetireConfig(ctx context.Context, req *workerv1.RetireConfigRequest) (*workerv1.RetireConfigResponse, error) {
	for _, g := range s.core.generations.retire(func(g *generation) bool { return g.id == req.GetGeneration() }) {
		select {
		case <-g.freed:
			s.env.log.Info("generation retired", "generation", g.id)
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	return &workerv1.RetireConfigResponse{}, nil
}

// ExecuteRequest implements the protocol.
func (s *service) ExecuteRequest(ctx context.Context, call *workerv1.Call) (*workerv1.Result, error) {
	return s.execute(ctx, call, false)
}

// ExecuteResponse implements the protocol.
func (s *service) ExecuteResponse(ctx context.Context, call *workerv1.Call) (*workerv1.Result, error) {
	return s.execute(ctx, call, true)
}

func (s *service) execute(ctx context.Context, call *workerv1.Call, response bool) (*workerv1.Result, error) {
	phase := call.GetPhase()
	if phase < workerv1.Phase_PHASE_REQUEST_HEADERS || phase > workerv1.Phase_PHASE_RESPONSE_TRAILERS || (phase >= workerv1.Phase_PHASE_RESPONSE_HEADERS) != response {
		return nil, status.Errorf(codes.InvalidArgument, "phase %v; legal are those of the method's flow", phase)
	}
	e, why := s.core.start(call, s.core.settings.Now())
	if e == nil {
		return why.result(call), nil
	}
	defer e.Release()
	if !e.run.Inline(ctx) {
		e.run.Wait(ctx)
	}
	// The result is encoded after this method returns, and must not alias the execution then.
	encoded, err := e.result().MarshalVT()
	if err != nil {
		return nil, status.Errorf(codes.Internal, "encode result: %v", err)
	}
	out := new(workerv1.Result)
	if err := out.UnmarshalVT(encoded); err != nil {
		return nil, status.Errorf(codes.Internal, "copy result: %v", err)
	}
	return out, nil
}

// GetMetrics implements the protocol.
func (s *service) GetMetrics(context.Context, *workerv1.GetMetricsRequest) (*workerv1.GetMetricsResponse, error) {
	var text bytes.Buffer
	if err := s.core.meters.write(&text); err != nil {
		return nil, status.Errorf(codes.Internal, "write metrics: %v", err)
	}
	return &workerv1.GetMetricsResponse{Text: text.Bytes()}, nil
}
