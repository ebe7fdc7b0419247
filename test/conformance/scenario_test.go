package conformance

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// scenario is one row of the table.
type scenario struct {
	name string
	// What the table groups by. The protocol is HTTP/1.1, the fault none, if they are empty.
	phase, mode, protocol, fault string

	// request and response are the chains of the scenario's own route: policies as they stand in the configuration. A scenario `at` another route has none of its own.
	request, response []string
	// processing is the processing_mode of both flows; auto if it is empty.
	processing string
	at         string

	// send is what the client sends, and answer what the upstream answers.
	send   send
	answer answer
	// client and upstream are what they must see.
	client   []check
	upstream *arrival
	// log are what Envoy's access log must say: fields of policy_engine, or of the line.
	log map[string]string
	// routed is the path in that log by which the scenario's line is found, if Envoy chooses its route anew.
	routed string

	// duplex: Envoy is in full duplex on the scenario's route.
	duplex bool

	// play is for what takes more than a request and an answer; it takes the place of send and client.
	play func(*run)
}

// The phases, and other things that the table groups by.
const (
	requestHeaders   = "request headers"
	requestBody      = "request body"
	requestTrailers  = "request trailers"
	responseHeaders  = "response headers"
	responseBody     = "response body"
	responseTrailers = "response trailers"
	lifeCycle        = "life cycle"

	headersOnly = "headers"
	buffered    = "buffered"
	streamed    = "streamed"

	http1     = "HTTP/1.1"
	http2     = "HTTP/2"
	https     = "HTTPS"
	grpcOver  = "gRPC"
	webSocket = "WebSocket"
	events    = "SSE"
	connect   = "CONNECT"
)

// send is a request. Its path is that of the scenario's route, and what target adds to it.
type send struct {
	method, target, body string
	// raw takes the place of the whole target.
	raw   string
	lines []string
	// chunked sends the body without its length. trailers follow it, over HTTP/2.
	chunked  bool
	trailers []string
}

// answer is what the upstream answers: 200 and a short text, if nothing else is said.
type answer struct {
	status   int
	lines    []string
	body     string
	trailers []string
	// handler answers in place of all that.
	handler http.HandlerFunc
}

// message is a response as the client saw it, or a request as it reached the upstream.
type message struct {
	status             int
	method, path, host string
	protocol           string
	header, trailer    http.Header
	body               string
	// interim are the statuses of responses that came before.
	interim []int
	// broken is why the message is not whole.
	broken error
	// took is how long it took the client.
	took time.Duration
	// done: the upstream has read all that comes.
	done bool
	// unmeasured: Envoy may have left out content-length, as it does for what is in full duplex (processor_state.h, shouldRemoveContentLength).
	unmeasured bool
}

func (m *message) String() string {
	return fmt.Sprintf("%s %s %s %d %v %.300q trailers %v interim %v broken %v", m.protocol, m.method, m.path, m.status, m.header, m.body, m.trailer, m.interim, m.broken)
}

// check says what is wrong with a message; "" if nothing is.
type check func(*message) string

// arrival is what must reach the upstream: so many requests, each of which passes the checks.
type arrival struct {
	count  int
	checks []check
	// orNever: none may arrive, too. A request whose body is streamed has reached the upstream when its first chunk is refused, or not yet.
	orNever bool
}

// never is for requests that must not reach the upstream.
var never = &arrival{}

func reached(checks ...check) *arrival { return &arrival{count: 1, checks: checks} }

func mayReach(checks ...check) *arrival { return &arrival{count: 1, checks: checks, orNever: true} }

func status(want int) check {
	return func(m *message) string {
		if m.status != want {
			return fmt.Sprintf("status %d, want %d", m.status, want)
		}
		return ""
	}
}

// refused is the status and the code in the body of one of the engine's own answers.
func refused(want int, code string) check {
	return func(m *message) string {
		if m.status != want || !strings.Contains(m.body, `"code":"`+code+`"`) || m.header.Get("Content-Type") != "application/json" {
			return fmt.Sprintf("want %d with the code %s as JSON", want, code)
		}
		return ""
	}
}

// refusedOrBroken is for refusals of a response that may have begun, or not yet: the engine's answer, or a response that is not whole.
func refusedOrBroken(want int, code string) check {
	return func(m *message) string {
		if m.broken != nil {
			return ""
		}
		return refused(want, code)(m)
	}
}

// header checks the lines of a header, joined; "" means that there is none.
func header(name, want string) check {
	return func(m *message) string {
		got := strings.Join(m.header.Values(name), ",")
		if got != want && !(got == "" && m.unmeasured && name == "Content-Length") {
			return fmt.Sprintf("%s is %q, want %q", name, got, want)
		}
		return ""
	}
}

// lines checks how many lines a header has, and what they are, in their order.
func lines(name string, want ...string) check {
	return func(m *message) string {
		if got := m.header.Values(name); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			return fmt.Sprintf("the lines of %s are %q, want %q", name, got, want)
		}
		return ""
	}
}

func trailer(name, want string) check {
	return func(m *message) string {
		if got := strings.Join(m.trailer.Values(name), ","); got != want {
			return fmt.Sprintf("the trailer %s is %q, want %q", name, got, want)
		}
		return ""
	}
}

func body(want string) check {
	return func(m *message) string {
		if m.body != want {
			return fmt.Sprintf("the body is %.200q (%d bytes), want %.200q", m.body, len(m.body), want)
		}
		return ""
	}
}

// without checks that neither headers nor body contain a text.
func without(text string) check {
	return func(m *message) string {
		if strings.Contains(m.body, text) || strings.Contains(fmt.Sprint(m.header), text) {
			return fmt.Sprintf("%q is in it", text)
		}
		return ""
	}
}

func method(want string) check {
	return func(m *message) string {
		if m.method != want {
			return fmt.Sprintf("the method is %q, want %q", m.method, want)
		}
		return ""
	}
}

func path(want string) check {
	return func(m *message) string {
		if m.path != want {
			return fmt.Sprintf("the path is %q, want %q", m.path, want)
		}
		return ""
	}
}

func overProtocol(want string) check {
	return func(m *message) string {
		if m.protocol != want {
			return fmt.Sprintf("the protocol is %q, want %q", m.protocol, want)
		}
		return ""
	}
}

// broken: the message ended before it was whole.
func broken(m *message) string {
	if m.broken == nil {
		return "it is whole, and should have been broken off"
	}
	return ""
}

// soonerThan: the answer came in less than d.
func soonerThan(d time.Duration) check {
	return func(m *message) string {
		if m.took >= d {
			return fmt.Sprintf("it took %v, legal is less than %v", m.took, d)
		}
		return ""
	}
}
