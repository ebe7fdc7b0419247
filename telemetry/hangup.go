package telemetry

import (
	"os"
	"os/signal"
	"syscall"
)

// Hangups delivers SIGHUP instead of having the process die of it: operators send it to have a configuration read again. stop ends that.
func Hangups() (hangups <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c, func() { signal.Stop(c) }
}
