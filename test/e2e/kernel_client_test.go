package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/policy-engine/policy-engine/fastpath/codec"
	"github.com/policy-engine/policy-engine/test/harness"
)

// kernelClient talks ext_proc to the kernel as Envoy does, and as nobody should.
type kernelClient struct {
	t    *testing.T
	conn *grpc.ClientConn
}

func dialKernel(t *testing.T, target string) *kernelClient {
	t.Helper()
	return dialKernelFrom(t, target, "")
}

// dialKernelFrom connects from one of the addresses of this machine; empty for any.
func dialKernelFrom(t *testing.T, target, from string) *kernelClient {
	t.Helper()
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if from != "" {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		options = append(options, grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", target)
		}))
	}
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &kernelClient{t, conn}
}

// stream is one ext_proc stream whose messages are bytes, good or bad.
type stream struct {
	t      *testing.T
	grpc   grpc.ClientStream
	cancel context.CancelFunc
}

const processMethod = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

func (c *kernelClient) open(route string) *stream {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Timeout)
	c.t.Cleanup(cancel)
	if route != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-policy-route", route)
	}
	s, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, processMethod, grpc.ForceCodecV2(codec.Codec{}))
	if err != nil {
		c.t.Fatal(err)
	}
	return &stream{c.t, s, cancel}
}

func (s *stream) send(message []byte) {
	s.t.Helper()
	if err := s.grpc.SendMsg(&codec.Frame{B: message}); err != nil && !errors.Is(err, io.EOF) { // EOF: the answer says more.
		s.t.Fatal(err)
	}
}

func (s *stream) receive() (*extprocv3.ProcessingResponse, error) {
	var f codec.Frame
	if err := s.grpc.RecvMsg(&f); err != nil {
		return nil, err
	}
	r := &extprocv3.ProcessingResponse{}
	if err := proto.Unmarshal(f.B, r); err != nil {
		s.t.Errorf("the kernel's answer can't be decoded: %v", err)
	}
	return r, nil
}

// exchange sends the headers of one request and returns the answer.
func (c *kernelClient) exchange(route string, lines ...string) (*extprocv3.ProcessingResponse, error) {
	c.t.Helper()
	s := c.open(route)
	defer s.cancel()
	s.send(encode(c.t, requestHeaders(lines...)))
	return s.receive()
}

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// requestHeaders is what Envoy sends for a GET; lines are "name: value" and may replace the pseudo-headers.
func requestHeaders(lines ...string) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{
		Request:         &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{Headers: headerMap(lines), EndOfStream: true}},
		MetadataContext: &corev3.Metadata{},
		ProtocolConfig:  &extprocv3.ProtocolConfiguration{RequestBodyMode: filterv3.ProcessingMode_NONE},
	}
}

func headerMap(lines []string) *corev3.HeaderMap {
	m := &corev3.HeaderMap{}
	for _, line := range append([]string{":method: GET", ":path: /", ":authority: e2e.example", ":scheme: http"}, lines...) {
		i := strings.Index(line[1:], ": ") + 1
		name, value := line[:i], line[i+2:]
		if j := slices.IndexFunc(m.Headers, func(h *corev3.HeaderValue) bool { return h.GetKey() == name && name[0] == ':' }); j >= 0 {
			m.Headers[j].RawValue = []byte(value)
			continue
		}
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
	}
	return m
}

// outcome is an answer in short: "pass", the status of an immediate response, or the error.
func outcome(r *extprocv3.ProcessingResponse, err error) string {
	switch {
	case err != nil:
		return "error"
	case r.GetImmediateResponse() != nil:
		return fmt.Sprint(int(r.GetImmediateResponse().GetStatus().GetCode()))
	case r.GetRequestHeaders() != nil:
		return "pass"
	}
	return "unset"
}

// closed waits for the end of a stream and returns its error; io.EOF is a clean close.
func (s *stream) closed() error {
	for {
		if _, err := s.receive(); err != nil {
			return err
		}
	}
}

// set returns the values that an answer sets a request header to, joined, and whether it removes it.
func set(r *extprocv3.ProcessingResponse, name string) (value string, removed bool) {
	change := r.GetRequestHeaders().GetResponse().GetHeaderMutation()
	for _, h := range change.GetSetHeaders() {
		if h.GetHeader().GetKey() == name {
			value += string(h.GetHeader().GetRawValue())
		}
	}
	return value, slices.Contains(change.GetRemoveHeaders(), name)
}

// soon bounds what must not take long, such as the end of a broken connection.
const soon = 10 * time.Second
