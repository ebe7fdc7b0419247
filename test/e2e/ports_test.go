package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/policy-engine/policy-engine/fastpath/codec"
	"github.com/policy-engine/policy-engine/test/harness"
)

// portsKernel is a configuration whose server and admin have keys of their own beside the addresses.
func portsKernel(t *testing.T, server, admin string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kernel.yaml")
	text := `policy_kernel:
  server: {address: 127.0.0.1, port: "${PORT_KERNEL}", transport: "${TRANSPORT}", ` + server + `}
  admin: {address: 127.0.0.1, port: "${PORT_ADMIN}", ` + admin + `}
` + twoWorkers + gates
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// portsSpec has no tap, so that Envoy connects to the kernel from this machine's address as the strangers do.
func portsSpec(file string) harness.Spec {
	return harness.Spec{
		KernelFile: file, Untapped: true,
		Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	}
}

// crowd connects n times to an address from another one of this machine, and sends each time what say has for the connection, or nothing. The peer may have closed it meanwhile.
func crowd(t *testing.T, n int, from, to string, say func(i int) string) {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: harness.Timeout}
	for i := range n {
		nc, err := dialer.Dial("tcp", to)
		if err != nil {
			t.Fatalf("connection %d to %s: %v", i, to, err)
		}
		t.Cleanup(func() { _ = nc.Close() })
		_, _ = io.WriteString(nc, say(i))
	}
}

// handshake is what a client of HTTP/2 says first: its preface and empty SETTINGS.
const handshake = http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

func nothingOrHandshake(i int) string {
	if i%2 == 0 {
		return ""
	}
	return handshake
}

// ended is how many connections to a port were refused or ended for a reason.
func ended(e *harness.Engine, listener, reason string) float64 {
	return e.Scrape()[fmt.Sprintf("policy_kernel_connections_ended_total{listener=%q,reason=%q}", listener, reason)]
}

// reconnect has another Envoy take the place of the one that runs.
func reconnect(e *harness.Engine) {
	e.Envoy.Kill()
	e.StartEnvoy()
}

// TestEnvoyReconnects: whatever connections others hold to the kernel's port, an Envoy that connects again is answered.
func TestEnvoyReconnects(t *testing.T) {
	t.Parallel()
	const most = 16
	t.Run("idle ones of its own address", func(t *testing.T) {
		e := harness.StartEngine(t, portsSpec(portsKernel(t, fmt.Sprintf("max_connections: %d, max_connections_per_peer: %d", most, most), "max_connections: 64")))
		eventually(t, e, 200, "/gate")
		for range 3 {
			crowd(t, 2*most, "127.0.0.1", e.ExtProc, nothingOrHandshake)
			reconnect(e)
			get(t, e, 200, "/gate")
			get(t, e, 403, "/gate", "x-deny: 1")
		}
		if n := ended(e, "envoy", "evicted"); n < 3*most {
			t.Errorf("%v connections made room", n)
		}
		checkLogs(t, e, []string{"a", "b"})
	})
	t.Run("requests that others hold open", func(t *testing.T) {
		e := harness.StartEngine(t, portsSpec(portsKernel(t, fmt.Sprintf("max_connections: %d, max_connections_per_peer: %d", most, most/2), "max_connections: 64")))
		eventually(t, e, 200, "/gate")
		taken := 0
		for range 2 * most {
			if hold(t, e, "127.0.0.2") {
				taken++
			}
		}
		if n := ended(e, "envoy", "peer_limit"); taken != most/2 || n < most {
			t.Errorf("%d connections were taken, %v refused", taken, n)
		}
		reconnect(e)
		get(t, e, 200, "/gate")
		get(t, e, 403, "/gate", "x-deny: 1")
	})
}

// hold connects from an address, and leaves a request open that was answered. It reports whether the kernel has taken the connection.
func hold(t *testing.T, e *harness.Engine, from string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Timeout)
	t.Cleanup(cancel)
	ctx = metadata.AppendToOutgoingContext(ctx, "x-policy-route", "both") // It waits for the response.
	c := dialKernelFrom(t, e.ExtProc, from)
	gs, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, processMethod, grpc.ForceCodecV2(codec.Codec{}))
	if err != nil {
		return false
	}
	s := &stream{t, gs, cancel}
	s.send(encode(t, requestHeaders()))
	r, err := s.receive()
	return outcome(r, err) == "pass"
}

// TestAdminPortTakesNoDescriptors: connections to the admin port, more than the process has descriptors, cost nobody a request, and leave metrics and health to others.
func TestAdminPortTakesNoDescriptors(t *testing.T) {
	t.Parallel()
	const descriptors = 512
	spec := portsSpec(portsKernel(t, "max_connections: 64", "max_connections: 64, max_connections_per_peer: 32"))
	spec.Descriptors = descriptors
	e := harness.StartEngine(t, spec)
	eventually(t, e, 200, "/gate")
	for i := range 12 {
		from := fmt.Sprintf("127.0.0.%d", 10+i)
		crowd(t, 64, from, e.Admin, func(i int) string { return []string{"", "GET /metrics HTTP/1.1\r\nHost: x\r\nX-A: "}[i%2] })
		crowd(t, 16, from, e.ExtProc, nothingOrHandshake)
		get(t, e, 200, "/gate")
		get(t, e, 403, "/gate", "x-deny: 1")
	}
	reconnect(e)
	get(t, e, 200, "/gate")
	http.DefaultClient.CloseIdleConnections()
	if status, body := e.Health("/health/ready"); status != 200 {
		t.Errorf("health: %d %s", status, body)
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", e.Kernel.PID()))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) > descriptors/2 {
		t.Errorf("%d descriptors are open", len(files))
	}
	if n := ended(e, "admin", "evicted"); n < 64 {
		t.Errorf("%v connections to the admin port were closed", n)
	}
	if n := ended(e, "admin", "descriptors") + ended(e, "envoy", "descriptors"); n > 0 {
		t.Errorf("%v connections were not accepted for want of descriptors", n)
	}
	checkLogs(t, e, []string{"a", "b"})
}

// TestTooFewDescriptors: the kernel does not start where Envoy could not connect.
func TestTooFewDescriptors(t *testing.T) {
	t.Parallel()
	spec := portsSpec(portsKernel(t, "max_connections: 64", "max_connections: 64"))
	spec.Descriptors, spec.NoEnvoy = 128, true
	e := harness.Prepare(t, spec)
	e.StartKernel()
	if status := e.Kernel.Wait(); status == 0 || !strings.Contains(e.Kernel.Output(), "the limit of open files is 128") {
		t.Errorf("exit status %d", status)
	}
}
