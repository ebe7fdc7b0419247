package workers

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/policy-engine/policy-engine/config"
)

// TestSharedSocketFolder: the kernel says that other users can remove a worker's socket, and takes the worker, which its
// peer credentials identify.
func TestSharedSocketFolder(t *testing.T) {
	for mode, want := range map[os.FileMode]int{0o700: 0, 0o777 | os.ModeSticky: 0, 0o777: 1} {
		path := socketPath(t)
		if err := os.Chmod(filepath.Dir(path), mode); err != nil {
			t.Fatal(err)
		}
		newFake("w", 1, "p").start(t, path)
		log, logged := observer.New(zapcore.WarnLevel)
		reg := New([]config.WorkerRef{{
			Name: "w", SocketPaths: []string{path}, Connections: 1, Timeout: time.Minute,
			HealthCheck: config.HealthCheck{Interval: 10 * time.Millisecond, Timeout: time.Second},
		}}, Options{KernelID: testKernel, Logger: zap.New(log), Lean: onLean(), Metrics: metrics.NewSet()})
		reg.Start()
		t.Cleanup(reg.Close)
		push(t, reg, 5)
		ready(t, reg.inUse()[0])
		if got := logged.FilterMessage("other users can remove a worker's socket").Len(); got != want {
			t.Errorf("%v: %d lines, want %d", mode, got, want)
		}
	}
}
