package burst

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"
)

// Streams is how many requests share a connection by default, as the printed configuration of Envoy permits.
const Streams = 100

// Burst is a number of requests that are to be in flight at the same time.
type Burst struct {
	// Target is the address of Envoy, host:port.
	Target string
	// Requests is how many there are. Rate is how many of them are sent in a second; 0 sends all of them at once.
	Requests, Rate int
	// Streams is how many requests share a connection; the constant Streams if it is 0.
	Streams int
	// Path is that of a request, Fields are more header fields of it.
	Path   func(request int) string
	Fields func(request int) []hpack.HeaderField
	// Check reports whether a header field of the response is what the response flow adds. Nil means that nobody asks.
	Check func(name, value string) bool
	// Patience bounds both phases: how long requests may take to arrive after the last one was sent, and how long answers
	// may take after they were released. A minute if it is 0.
	Patience time.Duration
	// Upstream is where the requests arrive.
	Upstream *Upstream
}

// Result is what happened to a burst. Times are in milliseconds.
type Result struct {
	Requests int `json:"requests"`
	// InFlight is how many requests the upstream held when it answered.
	InFlight int `json:"in_flight"`
	Answered int `json:"answered"`
	// Lost are the requests that were not answered by the upstream, most frequent outcome first.
	Lost []Loss `json:"lost,omitempty"`
	// Unchecked reached the upstream without the policies of the request flow, or came back without those of the response
	// flow; Repeated reached the upstream more than once.
	Unchecked int `json:"unchecked"`
	Repeated  int `json:"repeated"`
	// Request is the phase until all were in flight: from sending a request to its arrival at the upstream. Response is
	// the phase after it: from the moment when all were released to the end of each answer.
	Request  Phase `json:"request"`
	Response Phase `json:"response"`
}

// Phase is how long requests took. Took is the time of the whole phase.
type Phase struct {
	Took float64 `json:"took_ms"`
	P50  float64 `json:"p50_ms"`
	P99  float64 `json:"p99_ms"`
}

// LostCount is how many requests were lost.
func (r *Result) LostCount() int { return r.Requests - r.Answered }

// Outcomes describes what was lost.
func (r *Result) Outcomes() string {
	all := make([]string, len(r.Lost))
	for i, l := range r.Lost {
		all[i] = l.String()
	}
	return strings.Join(all, "; ")
}

// Err returns an error if requests were lost, or were not checked, or were not in flight together.
func (r *Result) Err() error {
	switch {
	case r.Unchecked > 0:
		return fmt.Errorf("%d of %d requests or responses were not checked", r.Unchecked, r.Requests)
	case r.LostCount() > 0:
		return fmt.Errorf("%d of %d requests were lost: %s", r.LostCount(), r.Requests, r.Outcomes())
	case r.Repeated > 0:
		return fmt.Errorf("%d of %d requests reached the upstream more than once", r.Repeated, r.Requests)
	case r.InFlight != r.Requests:
		return fmt.Errorf("%d of %d requests were in flight at the same time", r.InFlight, r.Requests)
	}
	return nil
}

// run is a burst that is under way.
type run struct {
	*Burst
	clients []*client

	sent  []time.Time
	ended atomic.Int64

	mu       sync.Mutex
	outcomes []Outcome
	ends     []time.Time
	all      chan struct{}
}

// Run sends the requests, waits until all of them are in flight, has them answered at once, and waits for the answers.
func (b *Burst) Run(ctx context.Context) (*Result, error) {
	r := &run{
		Burst: b, sent: make([]time.Time, b.Requests), outcomes: make([]Outcome, b.Requests), ends: make([]time.Time, b.Requests),
		all: make(chan struct{}),
	}
	if b.Requests < 1 {
		return nil, fmt.Errorf("requests must be at least 1, got %d", b.Requests)
	}
	patience, streams := b.Patience, b.Streams
	if patience == 0 {
		patience = time.Minute
	}
	if streams == 0 {
		streams = Streams
	}
	b.Upstream.begin(b.Requests)
	defer func() {
		for _, c := range r.clients {
			c.close()
		}
	}()
	for range (b.Requests + streams - 1) / streams {
		c, err := dial(b.Target, b.Check, r.end)
		if err != nil {
			return nil, err
		}
		r.clients = append(r.clients, c)
	}
	start := time.Now()
	r.send(ctx, streams)
	inFlight := b.Upstream.await(func() int { return b.Requests - int(r.ended.Load()) }, time.After(patience), ctx.Done())
	released := time.Now()
	b.Upstream.release()
	select {
	case <-r.all:
	case <-time.After(patience):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return r.result(start, released, inFlight), nil
}

// send sends all requests, at the rate.
func (r *run) send(ctx context.Context, streams int) {
	const pause = time.Millisecond
	start := time.Now()
	for sent := 0; sent < r.Requests && ctx.Err() == nil; {
		due := r.Requests
		if r.Rate > 0 {
			due = min(due, 1+int(time.Since(start).Seconds()*float64(r.Rate)))
		}
		for sent < due {
			c := r.clients[sent/streams]
			end := min(due, (sent/streams+1)*streams)
			for ; sent < end; sent++ {
				r.sent[sent] = time.Now()
				c.send(sent, r.fields(sent))
			}
			c.flush()
		}
		if r.Rate > 0 {
			time.Sleep(pause)
		}
	}
}

func (r *run) fields(request int) []hpack.HeaderField {
	fields := []hpack.HeaderField{
		{Name: ":method", Value: "GET"},
		{Name: ":scheme", Value: "http"},
		{Name: ":authority", Value: "api.example"},
		{Name: ":path", Value: r.Path(request)},
		{Name: Header, Value: strconv.Itoa(request)},
	}
	if r.Fields != nil {
		fields = append(fields, r.Fields(request)...)
	}
	return fields
}

// end records the outcome of a request.
func (r *run) end(request int, o Outcome) {
	now := time.Now()
	r.mu.Lock()
	r.outcomes[request], r.ends[request] = o, now
	r.mu.Unlock()
	if r.ended.Add(1) == int64(r.Requests) {
		close(r.all)
	}
}

func (r *run) result(start, released time.Time, inFlight int) *Result {
	arrived, unchecked, repeated := r.Upstream.seen()
	out := &Result{Requests: r.Requests, InFlight: inFlight, Unchecked: unchecked, Repeated: repeated}
	r.mu.Lock()
	defer r.mu.Unlock()
	var before, after []time.Duration
	lost := make(map[Loss]int) // with a count of 0
	for i, o := range r.outcomes {
		if !arrived[i].IsZero() {
			before = append(before, arrived[i].Sub(r.sent[i]))
		}
		early := r.ends[i].Before(released) && !r.ends[i].IsZero()
		switch {
		case o.answered() && !early:
			out.Answered++
			after = append(after, r.ends[i].Sub(released))
			continue
		case o.answered():
			o.Reason = "before it was released"
		case o == Outcome{}:
			o = Outcome{By: ByTime}
		case o.Reason == uncheckedResponse:
			out.Unchecked++
		}
		l := Loss{Phase: "response", Outcome: o}
		if early {
			l.Phase = "request"
		}
		lost[l]++
	}
	for l, n := range lost {
		l.Count = n
		out.Lost = append(out.Lost, l)
	}
	slices.SortFunc(out.Lost, func(a, b Loss) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.String(), b.String()))
	})
	out.Request, out.Response = phase(before), phase(after)
	out.Request.Took = millis(released.Sub(start))
	return out
}

func phase(all []time.Duration) Phase {
	if len(all) == 0 {
		return Phase{}
	}
	slices.Sort(all)
	return Phase{
		Took: millis(all[len(all)-1]), P50: millis(all[(len(all)-1)*50/100]), P99: millis(all[(len(all)-1)*99/100]),
	}
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
