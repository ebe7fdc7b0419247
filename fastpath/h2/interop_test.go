package h2

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/policy-engine/policy-engine/fastpath/codec"
)

// echoHandler answers every message with itself, on the goroutine that read it.
type echoHandler struct{}

func (echoHandler) Open(s *Stream, r *Request) Receiver {
	switch r.Path {
	case "/test/Echo":
		return echo{}
	case "/test/Fail":
		return failing{}
	}
	return nil
}
func (echoHandler) AfterRead(*Conn) {}

type echo struct{}

func (echo) Message(s *Stream, msg []byte) { s.Send(msg) }
func (echo) HalfClose(s *Stream)           { s.Finish(nil) }
func (echo) Reset(*Stream)                 {}

type failing struct{}

func (failing) Message(s *Stream, msg []byte) { s.Fail(9, "no: "+string(msg)+" ü%") }
func (failing) HalfClose(s *Stream)           { s.Fail(9, "half") }
func (failing) Reset(*Stream)                 {}

func startServer(t testing.TB, cfg Config, h Handler) (addr string, srv *Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv = NewServer(cfg, h)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; err != ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String(), srv
}

func dial(t testing.TB, addr string) *grpc.ClientConn {
	t.Helper()
	return dialTarget(t, "passthrough:///"+addr)
}

var bidi = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

func TestGRPCClientEcho(t *testing.T) {
	noLeaks(t)
	t.Run("calls", func(t *testing.T) {
		addr, _ := startServer(t, Config{}, echoHandler{})
		cc := dial(t, addr)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for j := range 20 {
					if err := echoOnce(ctx, cc, bytes.Repeat([]byte{byte(i)}, 1+i*j*7)); err != nil {
						t.Error(err)
						return
					}
				}
			}()
		}
		wg.Wait()
		if err := echoOnce(ctx, cc, bytes.Repeat([]byte("x"), 3<<20)); err != nil {
			t.Error("3 MiB:", err)
		}
	})
}

func echoOnce(ctx context.Context, cc *grpc.ClientConn, msg []byte) error {
	st, err := cc.NewStream(ctx, bidi, "/test/Echo")
	if err != nil {
		return err
	}
	for range 2 {
		if err := st.SendMsg(&codec.Frame{B: msg}); err != nil {
			return err
		}
		var got codec.Frame
		if err := st.RecvMsg(&got); err != nil {
			return err
		}
		if !bytes.Equal(got.B, msg) {
			return fmt.Errorf("got %d bytes, want %d", len(got.B), len(msg))
		}
	}
	if err := st.CloseSend(); err != nil {
		return err
	}
	if err := st.RecvMsg(&codec.Frame{}); err != io.EOF {
		return fmt.Errorf("end: %v, want EOF", err)
	}
	return nil
}

func TestGRPCClientStatuses(t *testing.T) {
	addr, _ := startServer(t, Config{MaxMessageSize: 1 << 20}, echoHandler{})
	cc := dial(t, addr)
	for _, tc := range []struct {
		name, method string
		size         int
		code         codes.Code
		message      string
	}{
		{"unknown method", "/test/Nothing", 1, codes.Unimplemented, "unknown method"},
		{"failure with a message", "/test/Fail", 1, codes.FailedPrecondition, "no: \x00 ü%"},
		{"message too large", "/test/Echo", 2 << 20, codes.ResourceExhausted, "message larger than the limit"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			st, err := cc.NewStream(ctx, bidi, tc.method)
			if err != nil {
				t.Fatal(err)
			}
			_ = st.SendMsg(&codec.Frame{B: make([]byte, tc.size)})
			err = st.RecvMsg(&codec.Frame{})
			if status.Code(err) != tc.code || status.Convert(err).Message() != tc.message {
				t.Fatalf("got %v, want %v %q", err, tc.code, tc.message)
			}
		})
	}
}
