package telemetry

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// ReportHangups logs SIGHUP instead of dying of it: operators send it to have a configuration read again, and a process that ends
// refuses requests. stop ends that.
func (l *Logger) ReportHangups() (stop func()) {
	hangups, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hangups, syscall.SIGHUP)
	var reporting sync.WaitGroup
	reporting.Go(func() {
		for {
			select {
			case <-hangups:
				l.Warn("SIGHUP changes nothing: a changed configuration takes effect with a restart")
			case <-done:
				return
			}
		}
	})
	return func() {
		signal.Stop(hangups)
		close(done)
		reporting.Wait()
	}
}
