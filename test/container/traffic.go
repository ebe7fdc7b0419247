package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	clients = 8
	// pause is between the requests of a client: enough for a rate that a shared machine holds.
	pause = 5 * time.Millisecond
	// longest is how long a request may take, whatever happens. The kernel and Envoy give up long before.
	longest = 15 * time.Second
)

// request is one kind of request of the traffic.
type request struct {
	method, path, body string
	headers            []string
	refused            bool // policies have to refuse it
}

// result is one request that was sent.
type result struct {
	begin, end time.Time
	refused    bool
	status     int
	err        error
}

func (r *result) failed() bool { return r.err != nil || r.status != 200 }

// traffic is clients that send until they are stopped.
type traffic struct {
	stopped context.CancelFunc
	done    sync.WaitGroup
	mu      sync.Mutex
	results []result
}

// load begins to send requests in turn, from all clients.
func (r *rig) load(ctx context.Context, clients int, requests []request) *traffic {
	sending, stopped := context.WithCancel(ctx)
	t := &traffic{stopped: stopped}
	for i := range clients {
		t.done.Go(func() {
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for n := i; ; n++ {
				select {
				case <-sending.Done():
					return
				case <-tick.C:
				}
				q := &requests[n%len(requests)]
				one := result{begin: time.Now(), refused: q.refused}
				a, err := r.send(ctx, q.method, q.path, q.body, q.headers...) // One that has begun may end.
				one.end, one.err = time.Now(), err
				if err == nil {
					one.status = a.status
				}
				t.mu.Lock()
				t.results = append(t.results, one)
				t.mu.Unlock()
			}
		})
	}
	return t
}

// count is how many requests that have to succeed have since that time.
func (t *traffic) count(since time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for i := range t.results {
		if r := &t.results[i]; !r.refused && !r.failed() && r.begin.After(since) {
			n++
		}
	}
	return n
}

// stop waits for the last answers.
func (t *traffic) stop() outcome {
	t.stopped()
	t.done.Wait()
	return outcome{results: t.results}
}

// outcome is what became of the traffic.
type outcome struct{ results []result }

// verdict is an error if a request passed that must not, or one did not end in time.
func (o outcome) verdict() error {
	if len(o.results) == 0 {
		return errors.New("nothing was sent")
	}
	for i := range o.results {
		r := &o.results[i]
		if took := r.end.Sub(r.begin); took > longest {
			return fmt.Errorf("a request took %v; status %d, error %w", took, r.status, r.err)
		}
		if r.refused && !r.failed() {
			return fmt.Errorf("a request that has to be refused got %d", r.status)
		}
	}
	return nil
}

// lost are the requests that should have succeeded and did not, and of them the one that ended last.
func (o outcome) lost() (n int, last time.Time) {
	for i := range o.results {
		if r := &o.results[i]; !r.refused && r.failed() {
			n++
			if r.end.After(last) {
				last = r.end
			}
		}
	}
	return n, last
}

// before is what was sent and answered before a time.
func (o outcome) before(t time.Time) outcome {
	return outcome{results: slices.DeleteFunc(slices.Clone(o.results), func(r result) bool { return r.end.After(t) })}
}

func (o outcome) String() string {
	lost, _ := o.lost()
	statuses := make(map[int]int)
	for i := range o.results {
		statuses[o.results[i].status]++
	}
	return fmt.Sprintf("%d requests, %d of them lost, by status %v", len(o.results), lost, statuses)
}
