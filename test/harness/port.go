package harness

import (
	"testing"

	"github.com/policy-engine/policy-engine/test/process"
)

// FreePort returns a port of 127.0.0.1 on which nobody listens, another one each time.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := process.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}
