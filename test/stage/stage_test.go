package stage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/pprof"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestCountSamples: a profile of goroutines has as many samples as there are goroutines.
func TestCountSamples(t *testing.T) {
	count := func() int {
		var out bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&out, 0); err != nil {
			t.Fatal(err)
		}
		n, err := countSamples(out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	over := make(chan struct{})
	for range 500 {
		go func() { <-over }()
	}
	if err := Within(10*time.Second, func() error {
		if n := count() - before; n != 500 {
			return fmt.Errorf("it counts %d more, want 500", n)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	close(over)
	for _, junk := range []string{"", "no profile", "\x1f\x8b"} {
		if _, err := countSamples([]byte(junk)); err == nil {
			t.Errorf("%q is a profile", junk)
		}
	}
}

// echo answers what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	return l.Addr().String()
}

// TestWire: what the wire is told to do is what both ends see.
func TestWire(t *testing.T) {
	w, err := StartWire(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	talk := func(c net.Conn) error {
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 5))
		return err
	}
	dial := func() net.Conn {
		c, err := net.Dial("tcp", w.Address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	first, second := dial(), dial()
	if err := errors.Join(talk(first), talk(second)); err != nil {
		t.Fatal(err)
	}
	w.Deafen()
	if err := talk(first); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a deaf wire says %v", err)
	}
	third := dial()
	if err := talk(third); err != nil {
		t.Errorf("a connection made later: %v", err)
	}
	w.Refuse(true)
	gone := func(err error) bool { return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) }
	for _, c := range []net.Conn{first, third} {
		if err := talk(c); !gone(err) {
			t.Errorf("a wire that refuses says %v", err)
		}
	}
	refused, err := net.Dial("tcp", w.Address)
	if err == nil { // The reset may be there before the connection is, for who has dialled.
		err = talk(refused)
		_ = refused.Close()
	}
	if !gone(err) {
		t.Errorf("a wire that refuses says %v to a new connection", err)
	}
	w.Refuse(false)
	fourth := dial()
	if err := talk(fourth); err != nil {
		t.Error(err)
	}
	w.Reset()
	if err := talk(fourth); !gone(err) {
		t.Errorf("a connection that was reset says %v", err)
	}
}

// TestRetriesAreRefused: a configuration with which Envoy would send a request again would hide what is lost.
func TestRetriesAreRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		yaml  string
		legal bool
	}{
		"none":         {"route: {cluster: upstream, timeout: 0s}", true},
		"a policy":     {"route: {cluster: upstream, retry_policy: {}}", false},
		"of a host":    {"virtual_hosts: [{retry_policy: {retry_on: 5xx, num_retries: 1}}]", false},
		"of a service": {"grpc_service: {retry_policy: {num_retries: 1}}", false},
	} {
		if err := refuseRetries(tt.yaml); (err == nil) != tt.legal {
			t.Errorf("%s: %v", name, err)
		}
	}
}
