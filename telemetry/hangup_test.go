package telemetry

import (
	"syscall"
	"testing"
	"time"
)

func TestHangupIsDeliveredAndSurvived(t *testing.T) {
	hangups, stop := Hangups()
	defer stop()
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	select {
	case <-hangups:
	case <-time.After(10 * time.Second):
		t.Fatal("SIGHUP was not delivered")
	}
}
