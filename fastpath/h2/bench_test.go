package h2

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"

	"github.com/policy-engine/policy-engine/fastpath/codec"
)

// BenchmarkShortStreamInMemory is the cost of a whole short stream without a socket: frames, HPACK, answer.
func BenchmarkShortStreamInMemory(b *testing.B) {
	s := newShortStream(finishing{})
	b.ReportAllocs()
	for b.Loop() {
		s.run(s.head)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "streams/s")
}

// inFlight is how many streams a benchmark's client keeps open on its connection.
const inFlight = 64

// BenchmarkShortStreams is short streams on one connection over a Unix socket, with our client, so that mostly the servers differ.
func BenchmarkShortStreams(b *testing.B) {
	b.Run("h2", func(b *testing.B) {
		srv := NewServer(Config{}, finishing{})
		l := listenUnix(b)
		go func() { _ = srv.Serve(l) }()
		defer srv.Close()
		shortStreams(b, l.Addr().String())
	})
	b.Run("grpc-go", func(b *testing.B) {
		srv := grpc.NewServer(grpc.ForceServerCodecV2(codec.Codec{}), grpc.UnknownServiceHandler(func(_ any, st grpc.ServerStream) error {
			var f codec.Frame
			if err := st.RecvMsg(&f); err != nil {
				return err
			}
			return st.SendMsg(&codec.Frame{B: answer})
		}))
		l := listenUnix(b)
		go func() { _ = srv.Serve(l) }()
		defer srv.Stop()
		shortStreams(b, l.Addr().String())
	})
}

func listenUnix(b *testing.B) net.Listener {
	b.Helper()
	l, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	if err != nil {
		b.Fatal(err)
	}
	return l
}

// load opens streams as fast as they end.
type load struct {
	client      *Client
	left, open  int
	message     []byte
	done        chan struct{}
	wrongStatus int
}

func (l *load) start() {
	if s := l.client.Open("/test/Finish", l); s != nil {
		l.left--
		l.open++
		s.Send(l.message)
	}
}

func (l *load) Message(*Stream, []byte) {}
func (l *load) HalfClose(*Stream)       {}
func (l *load) Reset(*Stream)           { l.wrongStatus++ }

func (l *load) Status(_ *Stream, code uint32, _ string) {
	if l.open--; code != 0 {
		l.wrongStatus++
	}
	if l.left > 0 {
		l.start()
	} else if l.open == 0 {
		close(l.done)
	}
}

func shortStreams(b *testing.B, path string) {
	b.Helper()
	nc, err := net.Dial("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	l := &load{left: b.N, message: make([]byte, 500), done: make(chan struct{})}
	l.client = NewClient(nc, Config{}, func() {})
	defer l.client.Close()
	ctx, cancel := context.WithTimeout(b.Context(), 10*patience)
	defer cancel()
	c := l.client.Conn()
	b.ReportAllocs()
	b.ResetTimer()
	c.Lock()
	for range min(inFlight, b.N) {
		l.start()
	}
	c.Unlock()
	c.Flush()
	select {
	case <-l.done:
	case <-l.client.Done():
		b.Fatal("the connection has ended")
	case <-ctx.Done():
		b.Fatal("not in time")
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "streams/s")
	c.Lock()
	defer c.Unlock()
	if l.wrongStatus > 0 {
		b.Errorf("%d streams did not end with OK", l.wrongStatus)
	}
}
