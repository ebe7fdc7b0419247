package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"go.uber.org/zap"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/policy-engine/policy-engine/config"
)

// stranger is a connection of somebody who is not Envoy.
type stranger struct {
	net.Conn
	fr    *http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
}

// connect connects to an address, and is closed with the test.
func connect(t *testing.T, at net.Addr) *stranger {
	t.Helper()
	nc, err := net.Dial(at.Network(), at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	s := &stranger{Conn: nc, fr: http2.NewFramer(nc, nc)}
	s.enc = hpack.NewEncoder(&s.block)
	return s
}

// speak does the HTTP/2 handshake, and reads what comes from then on. It reports false if the connection is gone.
func (s *stranger) speak() bool {
	if _, err := s.Write([]byte(http2.ClientPreface)); err != nil {
		return false
	}
	if s.fr.WriteSettings() != nil || s.fr.WriteSettingsAck() != nil {
		return false
	}
	go func() {
		for buf := make([]byte, 64<<10); ; {
			if _, err := s.Read(buf); err != nil {
				return
			}
		}
	}()
	return true
}

// half opens a stream and sends a part of a long message. It reports false if the connection is gone.
func (s *stranger) half(id uint32, size, part int) bool {
	s.block.Reset()
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", "/envoy.service.ext_proc.v3.ExternalProcessor/Process"},
		{":authority", "x"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
		{"x-policy-route", "open"},
	} {
		if s.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) != nil {
			return false
		}
	}
	if s.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: s.block.Bytes(), EndHeaders: true}) != nil {
		return false
	}
	message := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(size)), make([]byte, part)...)
	for len(message) > 0 {
		n := min(len(message), 16<<10)
		if s.fr.WriteData(id, false, message[:n]) != nil {
			return false
		}
		message = message[n:]
	}
	return true
}

// closed reports whether the peer has closed the connection, within the bound.
func (s *stranger) closed(t *testing.T) bool {
	t.Helper()
	if err := s.SetReadDeadline(time.Now().Add(bound)); err != nil {
		t.Fatal(err)
	}
	for buf := make([]byte, 4096); ; {
		if _, err := s.Read(buf); err != nil {
			return !os.IsTimeout(err)
		}
	}
}

// number is the sum of the samples that begin with the prefix.
func (r *running) number(prefix string) (sum float64) {
	r.t.Helper()
	for line := range strings.Lines(r.metrics(prefix)) {
		_, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			r.t.Fatal(line, err)
		}
		sum += n
	}
	return sum
}

func isFast() bool {
	return os.Getenv("POLICY_ENGINE_TRANSPORT") != string(config.TransportGRPC)
}

// TestIdleConnectionsMakeRoom: connections without requests neither keep a client out nor cost one that has requests its connection.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	const most = 32
	r := launch(t, socketPath(t), func(cfg *config.Kernel, _ *Options) {
		cfg.Server.MaxConnections, cfg.Server.MaxConnectionsPerPeer = most, most
	})
	eventually(t, "requests are answered", func() bool { return r.ask("open") == 0 })
	working := r.stream("open")
	if r.exchange(working, requestHeaders()).GetRequestHeaders() == nil {
		t.Fatal("no answer")
	}
	for i := range 3 * most {
		s := connect(t, r.envoy)
		if i%2 == 0 {
			s.speak()
		}
	}
	eventually(t, "others were closed for the new ones", func() bool {
		return r.number(`policy_kernel_connections_ended_total{listener="envoy",reason="evicted"}`) >= most && r.number(`policy_kernel_connections{listener="envoy"}`) <= most
	})
	conn, err := grpc.NewClient("passthrough:///"+r.envoy.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	other := *r // A client that connects again.
	other.client = extprocv3.NewExternalProcessorClient(conn)
	if got := other.ask("open"); got != 0 {
		t.Errorf("the client that connects again: %d", got)
	}
	if r.ask("open") != 0 {
		t.Error("the client with requests lost its connection")
	}
	_ = r.logger.Flush()
	if lines := r.log.lines("connection refused or ended by the kernel"); len(lines) == 0 || len(lines) > 4 || !strings.Contains(lines[0], "evicted") {
		t.Errorf("lines: %q", lines)
	}
	_ = working.CloseSend()
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// TestSharesOfPeers: the connections of one peer that are all in use cannot take those of others.
func TestSharesOfPeers(t *testing.T) {
	r := launch(t, socketPath(t), func(cfg *config.Kernel, _ *Options) {
		cfg.Server.MaxConnections, cfg.Server.MaxConnectionsPerPeer = 64, 8
	})
	eventually(t, "requests are answered", func() bool { return r.ask("open") == 0 })
	for i := range 7 {
		s := connect(t, r.envoy)
		s.speak()
		s.half(1, 100, 10)
		eventually(t, "its stream is open", func() bool { return r.number("policy_kernel_streams") == float64(i+1) })
	}
	eventually(t, "connections are refused", func() bool {
		s := connect(t, r.envoy)
		s.speak()
		s.half(1, 100, 10)
		return r.number(`policy_kernel_connections_ended_total{listener="envoy",reason="peer_limit"}`) > 0
	})
	if n := r.number(`policy_kernel_connections{listener="envoy"}`); n > 8 {
		t.Errorf("%v connections", n)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// TestSlowHandshakes: a connection that does not speak HTTP/2 in time is closed, however it spends the time.
func TestSlowHandshakes(t *testing.T) {
	r := launch(t, socketPath(t), func(cfg *config.Kernel, _ *Options) { cfg.Server.HandshakeTimeout = 200 * time.Millisecond })
	for _, first := range []string{"", "P", http2.ClientPreface, http2.ClientPreface + "\x00\x00"} {
		s := connect(t, r.envoy)
		if _, err := s.Write([]byte(first)); err != nil {
			t.Fatal(err)
		}
		if !s.closed(t) {
			t.Errorf("%q: it is kept", first)
		}
	}
	if isFast() {
		eventually(t, "it is counted", func() bool {
			return r.number(`policy_kernel_connections_ended_total{listener="envoy",reason="handshake"}`) == 4
		})
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// TestUnfinishedMessagesOfManyConnections: what all connections hold together stays within the bound, and others are served.
func TestUnfinishedMessagesOfManyConnections(t *testing.T) {
	const memory = 24 << 20
	r := launch(t, socketPath(t), func(cfg *config.Kernel, _ *Options) { cfg.Server.MaxMemory = memory })
	eventually(t, "requests are answered", func() bool { return r.ask("open") == 0 })
	var most float64
	const conns, streams = 8, 200
	for range conns {
		s := connect(t, r.envoy)
		if !s.speak() {
			continue
		}
		for i := range uint32(streams) {
			if !s.half(2*i+1, 1<<20, 60<<10) {
				break
			}
		}
		most = max(most, r.number("policy_kernel_connection_memory_bytes"))
		if got := r.ask("open"); got != 0 {
			t.Fatalf("another client: %d", got)
		}
	}
	eventually(t, "messages are refused", func() bool {
		most = max(most, r.number("policy_kernel_connection_memory_bytes"))
		return r.number("policy_kernel_memory_refusals_total") > 0
	})
	// Each connection may go beyond it by what one read brings.
	if slack := float64(conns * 512 << 10); most > memory+slack || most < memory/4 {
		t.Errorf("%v bytes were held", most)
	}
	_ = r.logger.Flush()
	if lines := r.log.lines("the memory for connections of Envoy is used up"); len(lines) != 1 {
		t.Errorf("lines: %q", lines)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// TestAdminConnections: however many connect to the admin port, and however slowly they speak, metrics and health answer, and so does the port for Envoy.
func TestAdminConnections(t *testing.T) {
	const most = 16
	r := launch(t, socketPath(t), func(cfg *config.Kernel, _ *Options) {
		cfg.Admin.MaxConnections, cfg.Admin.MaxConnectionsPerPeer = most, most
	})
	for i := range 10 * most {
		s := connect(t, r.admin)
		switch i % 3 {
		case 1:
			_, _ = s.Write([]byte("GET /metrics HTTP/1.1\r\nHost: x\r\nX-A: "))
		case 2:
			_, _ = s.Write([]byte("POST /config/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx"))
		}
	}
	for range 3 {
		http.DefaultClient.CloseIdleConnections()
		if code, _ := r.get("/health/live"); code != 200 {
			t.Errorf("health: %d", code)
		}
		if got := r.ask("open"); got != 0 {
			t.Errorf("a request: %d", got)
		}
	}
	if n := r.number(`policy_kernel_connections{listener="admin"}`); n > most {
		t.Errorf("%v connections", n)
	}
	if n := r.number(`policy_kernel_connections_ended_total{listener="admin"`); n < 8*most {
		t.Errorf("%v connections were ended", n)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// TestHugeAdminHeaders: a header section over the limit is refused.
func TestHugeAdminHeaders(t *testing.T) {
	r := launch(t, socketPath(t), nil)
	req, err := http.NewRequest(http.MethodGet, "http://"+r.admin.String()+"/health/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-A", strings.Repeat("a", 64<<10))
	if resp, err := http.DefaultClient.Do(req); err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%d", resp.StatusCode)
		}
	}
	eventually(t, "its connection is closed", func() bool { return r.number(`policy_kernel_connections{listener="admin"}`) <= 1 })
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// TestDescriptorsAreShared: the connections of Envoy leave descriptors for all else, and the kernel does not start without some for each.
func TestDescriptorsAreShared(t *testing.T) {
	cfg := &config.Kernel{Server: config.Server{MaxConnections: 1024}, Admin: config.Admin{MaxConnections: 128}, Workers: []config.WorkerRef{{SocketPaths: []string{"/a", "/b"}, Connections: 2}}}
	p := newPorts(nil, zap.NewNop())
	const others = otherDescriptors + 2*128 + 2*4
	for descriptors, want := range map[int]int{1 << 20: 1024, 1024 + others: 1024, 1024: 1024 - others, others + leastConnections: leastConnections, others + leastConnections - 1: 0, 0: 0} {
		got, err := p.connections(cfg, descriptors)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("%d descriptors: %d connections, %v; want %d", descriptors, got, err, want)
		}
	}
}

// TestPagesTakeTurns: no peer has all slots for pages, and a slot comes back.
func TestPagesTakeTurns(t *testing.T) {
	s := newSlots()
	for i := range maxPagesPerPeer + 1 {
		if got := s.take("a"); got != (i < maxPagesPerPeer) {
			t.Errorf("slot %d of a: %t", i, got)
		}
	}
	for i := range maxPages - maxPagesPerPeer {
		if !s.take("b" + strconv.Itoa(i)) {
			t.Errorf("slot %d of another: none", i)
		}
	}
	if s.take("c") {
		t.Error("more pages than the bound")
	}
	s.give("a")
	if !s.take("c") || s.take("d") {
		t.Error("the slot that came back")
	}
}

// TestGuardedSocket: guarded pages with a socket of their own are nowhere else, and only the kernel's user can connect to it.
func TestGuardedSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "admin.sock")
	r := launch(t, socketPath(t), func(cfg *config.Kernel, _ *Options) { cfg.Admin.GuardedAddress = socket })
	if code, body := r.call("GET /config", ""); code != 403 || !strings.Contains(body, "guarded_address") {
		t.Errorf("on the admin port: %d %s", code, body)
	}
	if code, _ := r.get("/metrics"); code != 200 {
		t.Errorf("metrics: %d", code)
	}
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	for page, want := range map[string]int{"/config": 200, "/workers": 200, "/health/live": 200, "/nothing": 404} {
		resp, err := client.Get("http://localhost" + page)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d", page, resp.StatusCode)
		}
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is left")
	}
}

// TestReadinessTellsNoPaths: everyone learns whether the kernel is ready, and only those who may see the guarded pages which sockets and errors there are.
func TestReadinessTellsNoPaths(t *testing.T) {
	path := socketPath(t)
	r := launch(t, path, nil)
	eventually(t, "the socket was tried", func() bool { _, body := r.get("/health/ready"); return strings.Contains(body, path) })
	req, err := http.NewRequest(http.MethodGet, "http://"+r.admin.String()+"/health/ready", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Request-Id", "1")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 503 || strings.Contains(body.String(), "/") || !strings.Contains(body.String(), `"worker worker-1: no replica`) || !strings.Contains(body.String(), `"ready":false`) {
		t.Error(fmt.Sprint(resp.StatusCode, body.String()))
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}
