package worker

import (
	"bytes"
	"context"
	"runtime/pprof"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// maxProfileTime is how long a CPU profile may take.
const maxProfileTime = time.Minute

// GetProfile implements the protocol. There is one CPU profile at a time in a process.
func (s *service) GetProfile(ctx context.Context, req *workerv1.GetProfileRequest) (*workerv1.GetProfileResponse, error) {
	var out bytes.Buffer
	if req.GetName() == "cpu" {
		if err := profileCPU(ctx, &out, req.GetDurationUs()); err != nil {
			return nil, err
		}
		return &workerv1.GetProfileResponse{Profile: out.Bytes()}, nil
	}
	p := pprof.Lookup(req.GetName())
	if p == nil {
		return nil, status.Errorf(codes.NotFound, "profile %q; legal are cpu, %s", req.GetName(), profileNames())
	}
	if err := p.WriteTo(&out, 0); err != nil {
		return nil, status.Errorf(codes.Internal, "write profile %q: %v", req.GetName(), err)
	}
	return &workerv1.GetProfileResponse{Profile: out.Bytes()}, nil
}

func profileCPU(ctx context.Context, out *bytes.Buffer, us uint64) error {
	if us == 0 || us > uint64(maxProfileTime/time.Microsecond) {
		return status.Errorf(codes.InvalidArgument, "duration_us %d; legal are 1 to %d", us, maxProfileTime/time.Microsecond)
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return status.Error(codes.FailedPrecondition, err.Error()) // Somebody else takes one.
	}
	defer pprof.StopCPUProfile()
	timer := time.NewTimer(time.Duration(us) * time.Microsecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

func profileNames() string {
	var names []string
	for _, p := range pprof.Profiles() {
		names = append(names, p.Name())
	}
	return strings.Join(names, ", ")
}
