package worker

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// unpacked checks that a profile is what it is said to be: gzip of something.
func unpacked(t *testing.T, profile []byte) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(profile))
	if err != nil {
		t.Fatalf("a profile that is not compressed: %v", err)
	}
	if text, err := io.ReadAll(z); err != nil || len(text) == 0 {
		t.Errorf("%d bytes of profile, %v", len(text), err)
	}
}

func TestProfiles(t *testing.T) {
	w := startWorker(t)
	for _, req := range []*workerv1.GetProfileRequest{{Name: "heap"}, {Name: "goroutine"}, {Name: "mutex"}, {Name: "cpu", DurationUs: 1000}} {
		resp, err := w.client.GetProfile(t.Context(), req)
		if err != nil {
			t.Fatalf("profile %q: %v", req.Name, err)
		}
		unpacked(t, resp.Profile)
	}
	for name, tt := range map[string]struct {
		req  *workerv1.GetProfileRequest
		code codes.Code
		says string
	}{
		"unknown name": {&workerv1.GetProfileRequest{Name: "secrets"}, codes.NotFound, "legal are cpu, allocs"},
		"no duration":  {&workerv1.GetProfileRequest{Name: "cpu"}, codes.InvalidArgument, "legal are 1 to 60000000"},
		"endless":      {&workerv1.GetProfileRequest{Name: "cpu", DurationUs: 1 << 62}, codes.InvalidArgument, "legal are 1 to 60000000"},
		"no name":      {&workerv1.GetProfileRequest{}, codes.NotFound, "legal are"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.client.GetProfile(t.Context(), tt.req)
			if status.Code(err) != tt.code || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %v and %q", err, tt.code, tt.says)
			}
		})
	}
}

// A process has one CPU profile at a time; who goes away frees it.
func TestOneCPUProfileAtATime(t *testing.T) {
	w := startWorker(t)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := w.client.GetProfile(ctx, &workerv1.GetProfileRequest{Name: "cpu", DurationUs: uint64(time.Minute / time.Microsecond)})
		first <- err
	}()
	short := &workerv1.GetProfileRequest{Name: "cpu", DurationUs: 1}
	eventually(t, "the second profile is refused", func() bool {
		_, err := w.client.GetProfile(t.Context(), short)
		return status.Code(err) == codes.FailedPrecondition
	})
	cancel()
	if err := <-first; status.Code(err) != codes.Canceled {
		t.Errorf("profile of a caller that has gone: %v", err)
	}
	eventually(t, "the profile is free again", func() bool {
		_, err := w.client.GetProfile(t.Context(), short)
		return err == nil
	})
}
