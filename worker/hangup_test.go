package worker

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/telemetry"
)

type hangupLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *hangupLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *hangupLog) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

func TestHangup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "worker.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("policy_worker:\n  name: w\n  socket_path: /run/w.sock\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("  key_stores: {partners: {file: /keys}}\n")
	running, err := config.LoadWorker(path)
	if err != nil {
		t.Fatal(err)
	}
	out := &hangupLog{}
	log, err := telemetry.NewLogger("worker", "info", out)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	stop := FollowHangups(running, log)
	defer stop()
	hangup := func(text, want string) {
		t.Helper()
		write(text)
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if _ = log.Flush(); out.has(want) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("no line with %s", want)
			}
		}
	}
	hangup("  # The same, elsewhere.\n  key_stores: {partners: {file: /keys}}\n  observability: {log_level: debug}\n", `"log_level":"debug"`)
	if !log.Core().Enabled(-1) {
		t.Error("the level is not debug")
	}
	hangup("  wrong: 1\n  max_concurrent_requests: x\n", "max_concurrent_requests")
	if out.has("takes effect with a restart") {
		t.Error("what has not changed takes a restart")
	}
	hangup("  max_concurrent_requests: 5\n  jwt_issuers: {i: {issuer: x, jwks_file: /f}}\n", `["policy_worker.max_concurrent_requests","policy_worker.key_stores","policy_worker.jwt_issuers"]`)
}
