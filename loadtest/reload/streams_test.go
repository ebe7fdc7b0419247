package reload

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/policy-engine/policy-engine/loadtest/credentials"
)

// TestStreams: what a kernel does wrong with a stream is a failed request, or the end of the run; never a success.
func TestStreams(t *testing.T) {
	c, err := credentials.Load(t.TempDir(), 1, 1, time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	status := func(id uint32, value string) func(*http2.Framer) error {
		var block strings.Builder
		if err := hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: "grpc-status", Value: value, Sensitive: true}); err != nil {
			t.Fatal(err)
		}
		return func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: true})
		}
	}
	reset := func(f *http2.Framer) error { return f.WriteRSTStream(1, http2.ErrCodeNo) }
	rubbish := func(f *http2.Framer) error { return f.WriteData(1, false, []byte("rubbish")) }
	goaway := func(f *http2.Framer) error { return f.WriteGoAway(1, http2.ErrCodeProtocol, nil) }
	settings := func(f *http2.Framer) error { return f.WriteSettings() }
	ping := func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) }
	for name, tt := range map[string]struct {
		kernel []func(*http2.Framer) error
		failed string // of the one request
		err    string
	}{
		"a clean close before a verdict": {[]func(*http2.Framer) error{settings, ping, status(1, "0")}, "ended without an answer", ""},
		"no grpc-status 0":               {[]func(*http2.Framer) error{settings, status(1, "14")}, "grpc-status 14", ""},
		"a reset":                        {[]func(*http2.Framer) error{settings, reset}, "reset: NO_ERROR", ""},
		"a reset after its end":          {[]func(*http2.Framer) error{settings, status(1, "13"), reset}, "grpc-status 13", ""},
		"rubbish":                        {[]func(*http2.Framer) error{settings, rubbish, status(1, "0")}, "not one message", ""},
		"the end of the connection":      {[]func(*http2.Framer) error{settings, goaway}, "", "ends the connection"},
		"the end of no stream":           {[]func(*http2.Framer) error{settings, status(3, "0")}, "", "stream 3, which is not open"},
		"nothing":                        {[]func(*http2.Framer) error{settings, func(*http2.Framer) error { return io.EOF }}, "", "read from the kernel"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				kernel(l, tt.kernel)
			}()
			a := newAccount()
			s, err := dial(t.Context(), l.Addr().String(), 1, c, a)
			if err != nil {
				t.Fatal(err)
			}
			err = s.hold(t.Context(), 1, time.Second)
			<-ended
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			for why := range a.failures {
				if tt.failed == "" || !strings.Contains(why, tt.failed) {
					t.Errorf("a request failed: %s, want %q", why, tt.failed)
				}
			}
			if tt.failed != "" && a.failed != 1 || a.latencies[quiet].Count() != 0 {
				t.Errorf("%d requests failed, %d succeeded", a.failed, a.latencies[quiet].Count())
			}
		})
	}
}

// kernel takes the first request of a connection, and writes its answer.
func kernel(l net.Listener, answer []func(*http2.Framer) error) {
	conn, err := l.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	if _, err := io.CopyN(io.Discard, in, int64(len(http2.ClientPreface))); err != nil {
		return
	}
	f := http2.NewFramer(conn, in)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		if _, ok := frame.(*http2.DataFrame); ok {
			break
		}
	}
	for _, write := range answer {
		if write(f) != nil {
			return
		}
	}
	for {
		if _, err := f.ReadFrame(); err != nil {
			return
		}
	}
}
