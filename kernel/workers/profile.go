package workers

import (
	"context"
	"fmt"
	"slices"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// NoReplicaError says that there is nobody to ask.
type NoReplicaError struct{ what string }

func (e *NoReplicaError) Error() string { return e.what }

// Profile asks a replica of a worker, counted from 0, for a profile of its process: compressed profile.proto. duration is for the profile cpu only. The error is a
// *NoReplicaError, or the replica's, with its gRPC status.
func (reg *Registry) Profile(ctx context.Context, worker string, replica int, name string, duration time.Duration) ([]byte, error) {
	workers := reg.inUse()
	i := slices.IndexFunc(workers, func(w *Worker) bool { return w.name == worker })
	if i < 0 {
		return nil, &NoReplicaError{fmt.Sprintf("there is no worker %q", worker)}
	}
	replicas := workers[i].replicas
	if replica < 0 || replica >= len(replicas) {
		return nil, &NoReplicaError{fmt.Sprintf("worker %q has no replica %d; legal are 0 to %d", worker, replica, len(replicas)-1)}
	}
	reg.mu.Lock()
	s := replicas[replica].session
	reg.mu.Unlock()
	if s == nil {
		return nil, &NoReplicaError{fmt.Sprintf("replica %d of worker %q is not connected", replica, worker)}
	}
	resp, err := s.control.GetProfile(ctx, &workerv1.GetProfileRequest{Name: name, DurationUs: uint64(duration.Microseconds())})
	if err != nil {
		return nil, fmt.Errorf("ask %q for its profile: %w", replicas[replica].path, err)
	}
	return resp.GetProfile(), nil
}
