package telemetry

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestHangupIsReportedAndSurvived(t *testing.T) {
	out := filepath.Join(t.TempDir(), "log")
	file, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	log, err := NewLogger("kernel", "info", file)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	stop := log.ReportHangups()
	defer stop()
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		if err := log.Flush(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "SIGHUP") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("SIGHUP was not reported")
		}
	}
}
