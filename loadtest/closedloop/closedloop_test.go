package closedloop

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers the n-th request on a connection with what answer returns, in pieces; nothing closes the connection.
func serve(t *testing.T, answer func(target string, n int) []string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				for n := 0; ; n++ {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					pieces := answer(r.URL.Path, n)
					for _, piece := range pieces {
						if _, err := io.WriteString(conn, piece); err != nil {
							return
						}
					}
					if len(pieces) == 0 {
						return
					}
				}
			}()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-ended
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

func requests(n int) []Request {
	out := make([]Request, n)
	for i := range out {
		out[i] = Request{
			Bytes:  fmt.Appendf(nil, "GET /client-%d HTTP/1.1\r\nhost: h\r\n\r\n", i),
			Status: 200, Contains: fmt.Appendf(nil, "\r\nx-identity: client-%d\r\n", i),
		}
	}
	return out
}

func ok(identity string) string {
	return "HTTP/1.1 200 OK\r\nx-identity: " + identity + "\r\ncontent-length: 3\r\n\r\nok\n"
}

// TestAnswers: only an answer that has all that it has to have counts, whatever else comes back.
func TestAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		answer               func(target string, n int) []string
		right, failed, wrong uint64
		says                 string
	}{
		"right":            {func(target string, _ int) []string { return []string{ok(target[1:])} }, 40, 0, 0, ""},
		"in pieces":        {func(target string, _ int) []string { return strings.SplitAfter(ok(target[1:]), "\r") }, 40, 0, 0, ""},
		"another identity": {func(string, int) []string { return []string{ok("client-x")} }, 0, 0, 40, "client-x"},
		"a longer one":     {func(target string, _ int) []string { return []string{ok(target[1:] + "0")} }, 0, 0, 40, "does not have"},
		"no identity":      {func(string, int) []string { return []string{"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"} }, 0, 0, 40, "does not have"},
		"identity in the body": {func(target string, _ int) []string {
			body := "\r\nx-identity: " + target[1:] + "\r\n"
			return []string{fmt.Sprintf("HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s", len(body), body)}
		}, 0, 0, 40, "does not have"},
		"refused":           {func(string, int) []string { return []string{"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno"} }, 0, 40, 0, "status 503"},
		"closed":            {func(string, int) []string { return nil }, 0, 40, 0, "closed"},
		"closed afterwards": {func(target string, n int) []string { return []string{ok(target[1:])}[:1-min(n, 1)] }, 20, 20, 0, "closed"},
		"announces the end": {func(target string, n int) []string {
			return []string{strings.Replace(ok(target[1:]), "\r\n", "\r\nconnection: close\r\n", 1)}[:1-min(n, 1)]
		}, 40, 0, 0, ""},
		"no length":      {func(string, int) []string { return []string{"HTTP/1.1 200 OK\r\n\r\n"} }, 0, 40, 0, "content-length"},
		"a wrong length": {func(string, int) []string { return []string{"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"} }, 0, 40, 0, "content-length"},
		"two answers":    {func(target string, _ int) []string { return []string{ok(target[1:]) + ok(target[1:])} }, 0, 40, 0, "after the answer"},
		"no HTTP":        {func(string, int) []string { return []string{"SSH-2.0-OpenSSH\r\n\r\n"} }, 0, 40, 0, "not HTTP/1.1"},
		"no status":      {func(string, int) []string { return []string{"HTTP/1.1 2x0 OK\r\n\r\n"} }, 0, 40, 0, "no status"},
		"too much": {func(string, int) []string {
			return []string{"HTTP/1.1 200 OK\r\nx: " + strings.Repeat("a", bufferSize)}
		}, 0, 40, 0, "more than"},
		"only one refuses": {func(target string, _ int) []string {
			if target == "/client-7" {
				return []string{"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n"}
			}
			return []string{ok(target[1:])}
		}, 39, 1, 0, "status 401"},
	} {
		t.Run(name, func(t *testing.T) {
			load := &Load{Target: serve(t, tt.answer), Connections: 1, Requests: requests(40), Once: true}
			r, err := Run(t.Context(), load, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if r.Latencies.Count() != tt.right || r.Failed != tt.failed || r.Wrong != tt.wrong || r.Next != 40 {
				t.Errorf("%d right, %d failed, %d wrong, next %d; want %d, %d, %d, 40", r.Latencies.Count(), r.Failed, r.Wrong, r.Next, tt.right, tt.failed, tt.wrong)
			}
			if says := r.Failure + r.Mistake; !strings.Contains(says, tt.says) || (says == "") != (tt.says == "") {
				t.Errorf("it says %q, want %q", says, tt.says)
			}
		})
	}
}

// TestRotation: each request is sent as often as every other, and never more at a time than there are connections.
func TestRotation(t *testing.T) {
	var under, most atomic.Int64
	var seen [10]atomic.Int64
	target := serve(t, func(target string, _ int) []string {
		n := under.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		var i int
		_, _ = fmt.Sscanf(target, "/client-%d", &i)
		seen[i].Add(1)
		under.Add(-1)
		return []string{ok(target[1:])}
	})
	r, err := Run(t.Context(), &Load{Target: target, Connections: 3, Requests: requests(10), First: 5}, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	var fewest, greatest, sum int64 = 1 << 60, 0, 0
	for i := range seen {
		n := seen[i].Load()
		fewest, greatest, sum = min(fewest, n), max(greatest, n), sum+n
	}
	if sum != int64(r.Latencies.Count()) || sum != int64(r.Next-5) || sum == 0 || greatest-fewest > 1 || most.Load() > 3 {
		t.Errorf("%d sent, %d counted, next %d; between %d and %d each; %d at a time", sum, r.Latencies.Count(), r.Next, fewest, greatest, most.Load())
	}
	if r.Elapsed < 200*time.Millisecond || r.PerSecond() <= 0 || r.Latencies.Max() > r.Elapsed {
		t.Errorf("elapsed %v, %v a second, longest %v", r.Elapsed, r.PerSecond(), r.Latencies.Max())
	}
}

func TestEnds(t *testing.T) {
	target := serve(t, func(target string, _ int) []string { return []string{ok(target[1:])} })
	t.Run("with the context", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := Run(ctx, &Load{Target: target, Connections: 2, Requests: requests(2)}, time.Hour); err != context.DeadlineExceeded {
			t.Errorf("error %v", err)
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := netip.MustParseAddrPort(l.Addr().String())
		_ = l.Close()
		if _, err := Run(t.Context(), &Load{Target: address, Connections: 2, Requests: requests(2)}, time.Second); err == nil || !strings.Contains(err.Error(), "connect to") {
			t.Errorf("error %v", err)
		}
	})
	for name, load := range map[string]*Load{
		"no requests":    {Target: target, Connections: 1},
		"no connections": {Target: target, Requests: requests(1)},
		"no address":     {Connections: 1, Requests: requests(1)},
	} {
		if _, err := Run(t.Context(), load, time.Second); err == nil || !strings.Contains(err.Error(), "legal is") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestDoesNotAllocate: what the generator costs is in the figures of everything that it measures.
func TestDoesNotAllocate(t *testing.T) {
	head := []byte(ok("client-1"))
	if n := testing.AllocsPerRun(100, func() {
		if _, whole, err := parse(head); !whole || err != nil {
			t.Error("not whole")
		}
	}); n != 0 {
		t.Errorf("%v allocations for an answer", n)
	}
}
