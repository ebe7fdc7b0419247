package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair connects two sockets.
func pair(t *testing.T, network, address string) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	defer l.Close()
	ours, err = net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	theirs, err = l.Accept()
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

func pairs(t *testing.T) map[string]func(*testing.T) (net.Conn, net.Conn) {
	return map[string]func(*testing.T) (net.Conn, net.Conn){
		"TCP":  func(t *testing.T) (net.Conn, net.Conn) { return pair(t, "tcp", "127.0.0.1:0") },
		"Unix": func(t *testing.T) (net.Conn, net.Conn) { return pair(t, "unix", filepath.Join(t.TempDir(), "s")) },
	}
}

func TestReadWaits(t *testing.T) {
	for name, connect := range pairs(t) {
		t.Run(name, func(t *testing.T) {
			ours, theirs := connect(t)
			c := New(ours)
			got := make(chan string)
			go func() {
				b := make([]byte, 64)
				n, err := c.Read(b)
				if err != nil {
					got <- err.Error()
					return
				}
				got <- string(b[:n])
			}()
			if _, err := theirs.Write([]byte("hello")); err != nil {
				t.Fatalf("write: %v", err)
			}
			if s := <-got; s != "hello" {
				t.Errorf("Read: got %q, want hello", s)
			}
			theirs.Close()
			if n, err := c.Read(make([]byte, 8)); n != 0 || err != nil {
				t.Errorf("Read at the end: got %d, %v; want 0, nil", n, err)
			}
		})
	}
}

// A write must return with what the socket took, and never wait for a peer that does not read.
func TestWriteDoesNotWait(t *testing.T) {
	for name, connect := range pairs(t) {
		t.Run(name, func(t *testing.T) {
			ours, theirs := connect(t)
			c := New(ours)
			sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
			n, err := c.Write(sent)
			if err != nil || n == 0 || n == len(sent) {
				t.Fatalf("Write to a peer that does not read: got %d of %d, %v; want a part", n, len(sent), err)
			}
			if more, err := c.Write(sent); err != nil || more == len(sent) {
				t.Fatalf("second Write: got %d, %v", more, err)
			}
			got := make([]byte, n)
			if _, err := io.ReadFull(theirs, got); err != nil || !bytes.Equal(got, sent[:n]) {
				t.Errorf("the peer did not get what was written: %v", err)
			}
		})
	}
}

func TestCloseAndDeadlineEndTheWait(t *testing.T) {
	for name, connect := range pairs(t) {
		t.Run(name, func(t *testing.T) {
			ours, _ := connect(t)
			c := New(ours)
			if err := ours.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 8)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Read past the deadline: got %v", err)
			}
			if err := ours.SetReadDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			result := make(chan error)
			go func() {
				_, err := c.Read(make([]byte, 8))
				result <- err
			}()
			ours.Close()
			if err := <-result; !errors.Is(err, net.ErrClosed) {
				t.Errorf("Read of a closed socket: got %v", err)
			}
			if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Write to a closed socket: got %v", err)
			}
		})
	}
}

func TestErrorsOfThePeer(t *testing.T) {
	ours, theirs := pair(t, "tcp", "127.0.0.1:0")
	c := New(ours)
	if err := theirs.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if _, err := c.Read(make([]byte, 8)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read from a peer that reset: got %v, want ECONNRESET", err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write to a peer that reset: got %v, want EPIPE", err)
	}
}

func TestNotASocket(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if c := New(a); c != nil {
		t.Errorf("New of a pipe in memory: got %v, want nil", c)
	}
}

func TestAllocations(t *testing.T) {
	ours, theirs := pair(t, "unix", filepath.Join(t.TempDir(), "s"))
	a, b := New(ours), New(theirs)
	buf := make([]byte, 64)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := a.Write(buf); err != nil {
			t.Error(err)
		}
		if _, err := b.Read(buf); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("a write and a read allocate %v times", n)
	}
}

func BenchmarkWriteRead(b *testing.B) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer syscall.Close(fds[0])
	defer syscall.Close(fds[1])
	buf := make([]byte, 256)
	b.Run("raw", func(b *testing.B) {
		for b.Loop() {
			write(fds[0], buf)
			read(fds[1], buf)
		}
	})
	b.Run("announced", func(b *testing.B) {
		for b.Loop() {
			_, _ = syscall.Write(fds[0], buf)
			_, _ = syscall.Read(fds[1], buf)
		}
	})
}
