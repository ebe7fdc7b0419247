package tap

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// large is more than a frame of HTTP/2 has.
var large = strings.Repeat("v", 40<<10)

// server answers request headers, or does what the route's name says.
type server struct {
	extprocv3.UnimplementedExternalProcessorServer
}

func (server) Process(s extprocv3.ExternalProcessor_ProcessServer) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	route := strings.Join(md.Get(routeMetadata), "")
	value := "small"
	if route == "plain" {
		value = large
	}
	for {
		if _, err := s.Recv(); err != nil {
			return nil
		}
		answer := &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{
			Response: &extprocv3.CommonResponse{HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{
				{Header: &corev3.HeaderValue{Key: "x-large", RawValue: []byte(value)}},
			}}},
		}}}
		switch route {
		case "nothing":
			return nil
		case "error":
			return status.Error(codes.Unavailable, "no")
		case "silence":
			<-s.Context().Done()
			return nil
		case "twice":
			_ = s.Send(answer)
		}
		if err := s.Send(answer); err != nil {
			return err
		}
	}
}

// start gives a tap before a server, and a client that uses it as Envoy does.
func start(t *testing.T, o Options) (*Tap, extprocv3.ExternalProcessorClient) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	extprocv3.RegisterExternalProcessorServer(s, server{})
	served := make(chan struct{})
	go func() {
		_ = s.Serve(l)
		close(served)
	}()
	tap, err := Start(l.Addr().String(), o)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(tap.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		tap.Close()
		s.Stop()
		<-served
	})
	return tap, extprocv3.NewExternalProcessorClient(conn)
}

// exchange sends request headers on a route, ends its side when there was an answer, and returns the answers and how the stream ended.
func exchange(t *testing.T, c extprocv3.ExternalProcessorClient, route string) (answers []*extprocv3.ProcessingResponse, end error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s := begin(ctx, t, c, route)
	for {
		r, err := s.Recv()
		if err != nil {
			return answers, err
		}
		if answers = append(answers, r); len(answers) == 1 && route != "twice" {
			_ = s.CloseSend()
		}
		if len(answers) == 2 {
			return answers, nil
		}
	}
}

// begin sends request headers on a route.
func begin(ctx context.Context, t *testing.T, c extprocv3.ExternalProcessorClient, route string) extprocv3.ExternalProcessor_ProcessClient {
	t.Helper()
	s, err := c.Process(metadata.AppendToOutgoingContext(ctx, routeMetadata, route))
	if err != nil {
		t.Fatal(err)
	}
	m := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{
		Headers: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "x-large", RawValue: []byte(strings.Repeat("r", 40<<10))}}},
	}}}
	if err := s.Send(m); err != nil {
		t.Fatal(err)
	}
	return s
}

// unanswered sends request headers on a route that answers nothing, and ends the stream when the tap has noticed.
func unanswered(t *testing.T, tap *Tap, c extprocv3.ExternalProcessorClient, route string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := begin(ctx, t, c, route)
	eventually(t, tap, `stream of route "`+route+`"`)
	eventually(t, tap, "no answer within Envoy's message_timeout")
	cancel()
	if r, err := s.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("%s: %v, %v; want no answer", route, r, err)
	}
}

const patience = 10 * time.Second

// eventually waits until the tap has a problem with that text. It learns of the end of a stream a little later than the client.
func eventually(t *testing.T, tap *Tap, text string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		problems := strings.Join(tap.Problems(), "\n")
		if strings.Contains(problems, text) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("problems %q, want %q", problems, text)
		}
		<-time.After(time.Millisecond)
	}
}

func TestPassesOn(t *testing.T) {
	tap, c := start(t, Options{Timeout: patience})
	for range 3 {
		answers, end := exchange(t, c, "plain")
		if len(answers) != 1 || !errors.Is(end, io.EOF) {
			t.Fatalf("%d answers, then %v", len(answers), end)
		}
		h := answers[0].GetRequestHeaders().GetResponse().GetHeaderMutation().GetSetHeaders()[0].GetHeader()
		if string(h.GetRawValue()) != large {
			t.Errorf("the answer has changed: %d bytes", len(h.GetRawValue()))
		}
	}
	if _, end := exchange(t, c, "error"); status.Code(end) != codes.Unavailable {
		t.Errorf("an error arrives as %v", end)
	}
	if streams, messages := tap.Counts(); streams != 4 || messages != 7 {
		t.Errorf("%d streams, %d messages; want 4 and 7", streams, messages)
	}
	if problems := tap.Problems(); len(problems) > 0 {
		t.Errorf("problems %q", problems)
	}
}

func TestFinds(t *testing.T) {
	tap, c := start(t, Options{Timeout: 50 * time.Millisecond})
	if answers, end := exchange(t, c, "nothing"); len(answers) > 0 || !errors.Is(end, io.EOF) {
		t.Fatalf("%v, %v", answers, end)
	}
	eventually(t, tap, "closed with OK before request_headers was answered")
	eventually(t, tap, `stream of route "nothing"`)
	if answers, _ := exchange(t, c, "twice"); len(answers) != 2 {
		t.Fatalf("%v", answers)
	}
	eventually(t, tap, "answered twice")
	unanswered(t, tap, c, "silence")
}

func TestFalsifies(t *testing.T) {
	deny := &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{}}}
	tap, c := start(t, Options{Timeout: 50 * time.Millisecond, Falsify: func(a Answer) (Change, bool) {
		switch a.Route {
		case "change":
			return Change{Answers: []*extprocv3.ProcessingResponse{deny}}, true
		case "close":
			return Change{Close: true}, true
		case "mute":
			return Change{Mute: true}, true
		}
		return Change{}, false
	}})
	if answers, end := exchange(t, c, "plain"); len(answers) != 1 || !errors.Is(end, io.EOF) {
		t.Errorf("left as it is: %v, %v", answers, end)
	}
	if answers, _ := exchange(t, c, "change"); len(answers) != 1 || answers[0].GetImmediateResponse() == nil {
		t.Errorf("changed: %v", answers)
	}
	eventually(t, tap, "status 0")
	if answers, end := exchange(t, c, "close"); len(answers) > 0 || !errors.Is(end, io.EOF) {
		t.Errorf("closed: %v, %v", answers, end)
	}
	eventually(t, tap, "closed with OK before")
	unanswered(t, tap, c, "mute")
}

// TestNoHTTP2: what can't be read goes on all the same, and is told.
func TestNoHTTP2(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tap, err := Start(l.Addr().String(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	client, err := net.Dial("tcp", tap.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	const preface, text = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00\x00\x05\x00\x01\x00\x00\x00\x00hello" // DATA on stream 0: illegal (RFC 9113 section 6.1)
	_, _ = io.WriteString(client, preface+text)
	_ = client.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(server)
	if err != nil || string(got) != preface+text {
		t.Errorf("the server got %q, error %v", got, err)
	}
	eventually(t, tap, "can't be read")
}

// TestNoServer: a server that is not there is a connection that ends.
func TestNoServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	tap, err := Start(address, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	client, err := net.Dial("tcp", tap.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_ = client.SetDeadline(time.Now().Add(patience))
	if n, err := client.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read %d, error %v", n, err)
	}
}
