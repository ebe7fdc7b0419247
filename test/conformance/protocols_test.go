package conformance

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

// frame is a message of gRPC.
func frame(text string) string {
	return string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(text)))) + text
}

// unary is a call of gRPC, and ofCall what the upstream answers to it.
var (
	unary  = send{method: "POST", target: "/package.Service/Method", body: frame("hello"), chunked: true, lines: []string{"Content-Type: application/grpc", "Te: trailers"}}
	ofCall = answer{lines: []string{"Content-Type: application/grpc"}, body: frame("world"), trailers: []string{"Grpc-Status: 0", "Grpc-Message: fine"}}
)

// grpcStatus is the status that a client of gRPC sees, in the headers if there is nothing else, or in the trailers.
func grpcStatus(want string) check {
	return func(m *message) string {
		got := m.trailer.Get("Grpc-Status")
		if got == "" {
			got = m.header.Get("Grpc-Status")
		}
		if got != want || m.status != 200 || m.header.Get("Content-Type") != "application/grpc" {
			return fmt.Sprintf("grpc-status is %q with status %d, want %q with 200", got, m.status, want)
		}
		return ""
	}
}

var protocolTable = func() (table []scenario) {
	for _, protocol := range []string{http2, https} {
		of := func(s scenario) scenario {
			s.name, s.protocol = s.name+", over "+strings.ReplaceAll(protocol, "/", "-"), protocol
			if s.phase == "" {
				s.phase, s.mode = requestHeaders, headersOnly
			}
			return s
		}
		table = append(table,
			of(scenario{name: "allow and change", request: one("set x-a 1"), client: []check{status(200), body(upstreamText), overProtocol("HTTP/2.0")}, upstream: reached(header("X-A", "1"))}),
			of(scenario{name: "deny", request: one("deny 403 told_to"), client: []check{refused(403, "TOLD_TO")}, upstream: never}),
			of(scenario{name: "deny a POST", request: one("deny 403 told_to"), send: send{method: "POST", body: strings.Repeat("x", 100<<10)}, client: []check{refused(403, "TOLD_TO")}, upstream: never}),
			of(scenario{name: "respond", request: one("respond 200 hello, with x-a 1"), client: []check{status(200), body("hello"), header("X-A", "1")}, upstream: never}),
			of(scenario{
				name: "a HEAD", request: one("set x-a 1"), response: one("set x-b 2"), send: send{method: "HEAD"},
				client: []check{status(200), header("X-B", "2"), body("")}, upstream: reached(method("HEAD"), header("X-A", "1")),
			}),
			of(scenario{
				name: "deny a response", phase: responseHeaders, mode: headersOnly, response: one("deny 502 told_to"), answer: answer{body: "a secret"},
				client: []check{refused(502, "TOLD_TO"), without("secret")}, upstream: reached(),
			}),
			of(scenario{name: "a failing policy", fault: "error", request: one("error"), client: []check{refused(500, "POLICY_FAILED")}, upstream: never}),
			of(scenario{name: "an unknown route", fault: "unknown route", at: "stranger", client: []check{refused(500, "UNKNOWN_ROUTE")}, upstream: never}),
		)
	}
	return table
}()

var grpcTable = func() []scenario {
	table := []scenario{
		{
			name: "a call passes", phase: requestHeaders, request: one("set x-a 1"), answer: ofCall,
			client: []check{grpcStatus("0"), body(frame("world"))}, upstream: reached(header("X-A", "1"), body(frame("hello"))),
		},
		{name: "a call is denied with 403", phase: requestHeaders, request: one("deny 403 told_to"), client: []check{grpcStatus("7")}, upstream: never},
		{name: "a call is denied with 401", phase: requestHeaders, request: one("deny 401 told_to"), client: []check{grpcStatus("16")}, upstream: never},
		{name: "a call is denied with 429", phase: requestHeaders, request: one("deny 429 told_to"), client: []check{grpcStatus("8")}, upstream: never},
		{name: "a call is denied with a status of gRPC's own", phase: requestHeaders, request: one("deny 403 told_to, grpc 9"), client: []check{grpcStatus("9")}, upstream: never},
		{
			name: "a status of gRPC's own does not show over HTTP", phase: requestHeaders, protocol: http2, request: one("deny 403 told_to, grpc 9"),
			client: []check{refused(403, "TOLD_TO"), header("Grpc-Status", "")}, upstream: never,
		},
		{name: "a call's policy fails", phase: requestHeaders, fault: "error", request: one("error"), client: []check{grpcStatus("13")}, upstream: never},
		{
			name: "a call's response is denied", phase: responseHeaders, response: one("deny 403 told_to"), answer: ofCall,
			client: []check{grpcStatus("7"), without("world")}, upstream: reached(),
		},
		{
			name: "a call's trailers are changed", phase: responseTrailers, mode: "trailers", response: []string{policy("editTrailersA", "set grpc-message changed")}, answer: ofCall,
			client: []check{grpcStatus("0"), body(frame("world")), trailer("Grpc-Message", "changed")}, upstream: reached(),
		},
		{
			name: "a call's message is denied", phase: requestBody, mode: buffered, request: onBody("deny 403 told_to"), answer: ofCall,
			client: []check{grpcStatus("7")}, upstream: never,
		},
		{
			name: "a call's message passes as a whole", phase: requestBody, mode: buffered, request: onBody("set x-a 1"), answer: ofCall,
			client: []check{grpcStatus("0"), body(frame("world"))}, upstream: reached(body(frame("hello")), header("X-A", "1")),
		},
		{
			name: "a call's messages pass in chunks", phase: requestBody, mode: streamed, request: onChunks("nothing", "body x"), response: onChunks("nothing", "body x"), answer: ofCall,
			client: []check{grpcStatus("0"), body(frame("world"))}, upstream: reached(body(frame("hello"))),
		},
		{name: "a stream of messages in turns", phase: requestHeaders, request: one("set x-a 1"), response: one("set x-b 2"), answer: answer{handler: echo}, play: turns, upstream: reached()},
		{
			name: "a stream of messages in turns, in chunks", phase: requestBody, mode: streamed, request: onChunks("nothing", "body x"), response: onChunks("nothing", "body x"),
			answer: answer{handler: echo}, play: turns, upstream: reached(),
		},
	}
	for i := range table {
		if table[i].protocol == "" {
			table[i].protocol = grpcOver
		}
		if table[i].mode == "" {
			table[i].mode = headersOnly
		}
		table[i].send = unary
		if table[i].protocol == http2 {
			table[i].send = send{}
		}
	}
	return table
}()

// echo sends back what comes, as it comes.
func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	_ = http.NewResponseController(w).Flush()
	buf := make([]byte, 4096)
	for {
		n, err := r.Body.Read(buf)
		_, _ = w.Write(buf[:n])
		_ = http.NewResponseController(w).Flush()
		if err != nil {
			break
		}
	}
	w.Header().Set("Grpc-Status", "0")
}

// turns sends a message, waits for its echo, and sends the next.
func turns(r *run) {
	transport := r.newTransport()
	defer transport.CloseIdleConnections()
	reader, writer := io.Pipe()
	defer writer.Close()
	req, err := http.NewRequest(http.MethodPost, r.url(send{target: "/package.Service/Stream"}), reader)
	if err != nil {
		r.errorf("%v", err)
		return
	}
	req.Header.Set(scenarioHeader, r.s.name)
	req.Header.Set("Content-Type", "application/grpc")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		r.errorf("open the stream: %v", err)
		return
	}
	defer resp.Body.Close()
	stop := time.AfterFunc(harness.Timeout, func() { _ = reader.Close(); _ = resp.Body.Close() })
	defer stop.Stop()
	for i := range 3 {
		want := frame(fmt.Sprintf("message %d", i))
		if _, err := io.WriteString(writer, want); err != nil {
			r.errorf("send message %d: %v", i, err)
			return
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			r.errorf("message %d comes back as %q, error %v", i, got, err)
			return
		}
	}
	_ = writer.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 || resp.Trailer.Get("Grpc-Status") != "0" {
		r.errorf("at the end: %q, error %v, trailers %v", rest, err, resp.Trailer)
	}
}

// eventSource sends events, each when the client has asked for it by a header line of a request of its own.
type eventSource struct{ next chan struct{} }

func (s eventSource) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for i := range 3 {
		fmt.Fprintf(w, "data: %d\n", i)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-s.next:
		case <-r.Context().Done():
			return
		}
	}
}

// eventScenario plays three events, the next of which the upstream sends only when the client has seen the last.
func eventScenario(s scenario) scenario {
	source := eventSource{make(chan struct{})}
	s.answer.handler, s.protocol, s.upstream = source.ServeHTTP, events, reached()
	s.play = func(r *run) {
		conn, in, err := r.dial()
		if err != nil {
			r.errorf("%v", err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, r.head(send{}))
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			r.errorf("read the response: %v", err)
			return
		}
		events := bufio.NewReader(resp.Body)
		for i := range 3 {
			if line, err := events.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
				r.errorf("event %d is %q, error %v", i, line, err)
				return
			}
			source.next <- struct{}{}
		}
		if rest, err := io.ReadAll(events); err != nil || len(rest) > 0 {
			r.errorf("after the events: %q, error %v", rest, err)
		}
	}
	return s
}

// webSocketEcho takes an upgrade and sends back what comes.
func webSocketEcho(w http.ResponseWriter, _ *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	_, _ = io.Copy(conn, rw)
}

// upgrade asks for a WebSocket; it is sent without "Connection: close".
var upgrade = []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}

// conversation sends a request's head, checks the response, and goes on with `then`, if there is one, on the same connection.
func conversation(s send, checks []check, then func(r *run, conn io.ReadWriter)) func(*run) {
	return func(r *run) {
		conn, in, err := r.dial()
		if err != nil {
			r.errorf("%v", err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, r.head(s))
		m, err := readResponse(in, s.method)
		if err != nil {
			r.errorf("%v", err)
			return
		}
		r.check("the client", m, checks)
		if then != nil {
			then(r, struct {
				io.Reader
				io.Writer
			}{in, conn})
		}
	}
}

func pingPong(r *run, conn io.ReadWriter) {
	for _, text := range []string{"ping", strings.Repeat("x", 50000)} {
		go func() { _, _ = io.WriteString(conn, text) }()
		got := make([]byte, len(text))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
			r.errorf("the echo is %.20q, error %v", got, err)
			return
		}
	}
}

var conversationTable = []scenario{
	eventScenario(scenario{name: "server-sent events with header policies", phase: responseHeaders, mode: headersOnly, request: one("set x-a 1"), response: one("set x-b 1")}),
	eventScenario(scenario{name: "server-sent events through a policy of chunks", phase: responseBody, mode: streamed, response: onChunks("nothing", "body x")}),
	{
		name: "a WebSocket is let pass", phase: requestHeaders, mode: headersOnly, protocol: webSocket, request: one("set x-a 1"), answer: answer{handler: webSocketEcho},
		play: conversation(send{lines: upgrade}, []check{status(101)}, pingPong), upstream: reached(header("X-A", "1")),
	},
	{
		name: "a WebSocket is let pass by a response flow", phase: responseHeaders, mode: headersOnly, protocol: webSocket, response: one("set x-b 1"), answer: answer{handler: webSocketEcho},
		play: conversation(send{lines: upgrade}, []check{status(101), header("X-B", "1")}, pingPong), upstream: reached(),
	},
	{
		name: "a WebSocket is refused", phase: requestHeaders, mode: headersOnly, protocol: webSocket, request: one("deny 403 told_to"),
		play: conversation(send{lines: upgrade}, []check{refused(403, "TOLD_TO")}, nil), upstream: never,
	},
	{
		name: "a WebSocket where a policy wants the whole body", phase: requestBody, mode: buffered, protocol: webSocket, request: onBody(""),
		play: conversation(send{lines: upgrade}, []check{refused(403, "UPGRADE_REFUSED")}, nil), upstream: never,
	},
	{
		name: "a WebSocket where a policy wants the response's body", phase: responseBody, mode: buffered, protocol: webSocket, response: onBody(""),
		play: conversation(send{lines: upgrade}, []check{refused(403, "UPGRADE_REFUSED")}, nil), upstream: never,
	},
	{
		name: "a WebSocket where a policy wants chunks", phase: requestBody, mode: streamed, protocol: webSocket, request: onChunks("nothing", "body x"),
		play: conversation(send{lines: upgrade}, []check{refused(403, "UPGRADE_REFUSED")}, nil), upstream: never,
	},
	{
		name: "CONNECT matches no route", phase: requestHeaders, mode: headersOnly, protocol: connect, fault: "local reply", request: one("deny 403 told_to"),
		play: conversation(send{method: "CONNECT", raw: "conformance.example:443"}, []check{func(m *message) string {
			if m.status < 400 {
				return fmt.Sprintf("status %d, want a refusal", m.status)
			}
			return ""
		}}, nil), upstream: never,
	},
	{
		name: "100-continue with an early refusal", phase: requestHeaders, mode: headersOnly, request: one("deny 403 told_to"),
		play: conversation(send{method: "POST", lines: []string{"Expect: 100-continue", "Content-Length: 5"}}, []check{refused(403, "TOLD_TO"), noInterim}, nil), upstream: never,
	},
	{
		name: "a body that is announced too long is refused before 100-continue", phase: requestBody, mode: buffered, fault: "too large", request: onBody(""),
		play:     conversation(send{method: "POST", lines: []string{"Expect: 100-continue", "Content-Length: 1000000"}}, []check{refused(413, "REQUEST_TOO_LARGE"), noInterim}, nil),
		upstream: never,
	},
	{
		name: "a refusal does not wait for a body that is on its way", phase: requestHeaders, mode: headersOnly, request: one("deny 403 told_to"),
		play: conversation(send{method: "POST", lines: []string{"Transfer-Encoding: chunked"}}, []check{refused(403, "TOLD_TO")}, nil), upstream: never,
	},
}

func noInterim(m *message) string {
	if len(m.interim) > 0 {
		return fmt.Sprintf("%v came before", m.interim)
	}
	return ""
}
