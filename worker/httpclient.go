package worker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/policy-engine/policy-engine/fastpath/lane"
	"github.com/policy-engine/policy-engine/worker/chain"
)

// Limits of what policies may do to other servers, and these to us.
const (
	maxOutgoingBody      = 1 << 20  // bytes of an answer
	maxOutgoingHeader    = 64 << 10 // bytes of its header
	maxOutgoingRedirects = 5
	maxOutgoingConns     = 256 // per host
	outgoingTimeout      = 10 * time.Second
	dialTimeout          = 2 * time.Second
)

// newHTTPClient makes the client that all policies share.
func newHTTPClient() *http.Client {
	return &http.Client{
		Timeout:       outgoingTimeout,
		CheckRedirect: checkRedirect,
		Transport: &boundedTransport{&http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSHandshakeTimeout:    dialTimeout,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    64,
			MaxConnsPerHost:        maxOutgoingConns,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: maxOutgoingHeader,
		}},
	}
}

// checkRedirect keeps a request, and the credentials in it, with the host that it was made for.
func checkRedirect(next *http.Request, via []*http.Request) error {
	first := via[0].URL
	switch {
	case len(via) > maxOutgoingRedirects:
		return fmt.Errorf("more than %d redirects", maxOutgoingRedirects)
	case next.URL.Host != first.Host:
		return fmt.Errorf("redirect to another host, %q", next.URL.Host)
	case next.URL.Scheme != first.Scheme:
		return fmt.Errorf("redirect to another scheme, %q", next.URL.Scheme)
	}
	return nil
}

// boundedTransport bounds the bodies of answers.
type boundedTransport struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (t *boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if lane.Under(chain.InlineFrame) {
		return nil, lane.ErrInline
	}
	if trace.SpanContextFromContext(r.Context()).IsSampled() { // The span of a policy goes on at whom it asks.
		r = r.Clone(r.Context())
		propagation.TraceContext{}.Inject(r.Context(), propagation.HeaderCarrier(r.Header))
	}
	resp, err := t.Transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.ContentLength > maxOutgoingBody {
		resp.Body.Close()
		return nil, errLargeBody
	}
	resp.Body = &boundedBody{resp.Body, maxOutgoingBody}
	return resp, nil
}

var errLargeBody = errors.New("body of the answer is larger than 1 MiB")

// boundedBody fails, rather than ends, at its bound: a part must not pass for the whole.
type boundedBody struct {
	io.ReadCloser
	left int
}

// Read implements io.Reader.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errLargeBody
	}
	// One byte more than allowed tells a body that is too large from one that just fits.
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if n > b.left {
		n, b.left = b.left, -1
		return n, errLargeBody
	}
	b.left -= n
	return n, err
}
