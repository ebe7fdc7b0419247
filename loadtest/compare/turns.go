package compare

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/closedloop"
	"github.com/policy-engine/policy-engine/loadtest/credentials"
)

// tracedRow is the row whose sampling is changed by turns.
const tracedRow = "engine-3-fast-traced"

const (
	// turnLength is what is measured of each turn, and turnSettle what passes before it: the change is a reload.
	turnLength = 400 * time.Millisecond
	turnSettle = 100 * time.Millisecond
	// sendings is how often the sending of spans is measured, at most, and sendingTime how long they wait for others, at most.
	sendings    = 3
	sendingTime = 5 * time.Second
)

// Turns is what tracing costs. It is little, and a machine that others use too differs by more from one row to the next, and from one second to the next. So it is measured within
// one run, with the sampling changed by turns, each of which is compared with its neighbour; and the engine's CPU time is taken in relation to Envoy's, which does the same for every
// request and meets the same machine at the same time.
//
// Spans leave later than they are made, in batches, so that turns with and without sampling share the sending. It is measured apart, after the load has stopped.
type Turns struct {
	// Pairs is how many turns with sampling were compared with one without.
	Pairs int `json:"pairs"`
	// Without is the median of the engine's CPU time for a request without sampling, and Sending is that for the sending of spans, in microseconds.
	Without float64 `json:"cpu_us_per_request"`
	Sending float64 `json:"sending_us_per_request"`
	// Ratio is what a request costs with sampling over what it costs without: the median of the pairs' ratios, with the sending. Error is its standard error.
	Ratio float64 `json:"ratio"`
	Error float64 `json:"standard_error"`
}

// turn is the CPU time of a request in one turn, in microseconds.
type turn struct{ engine, envoy float64 }

// pair is two turns, one after the other.
type pair struct{ without, with turn }

func (p pair) ratio() float64 {
	return (p.with.engine / p.with.envoy) / (p.without.engine / p.without.envoy)
}

// turns measures the row with and without sampling. Each turn begins with a change, so that what a reload leaves behind is in all of them.
func turns(ctx context.Context, o *Options, row Row, c *credentials.Set) (*Turns, error) {
	b, err := open(ctx, row, o.Programs, c)
	if err != nil {
		return nil, err
	}
	defer b.rig.Stop()
	load := &closedloop.Load{Target: b.rig.Target, Connections: o.Connections, Requests: b.warm}
	if _, err := b.run(ctx, load, warmUp); err != nil {
		return nil, err
	}
	var pairs []pair
	for n := range o.Turns {
		without, err := b.turn(ctx, load, 0)
		if err != nil {
			return nil, err
		}
		with, err := b.turn(ctx, load, row.Spec.Traced)
		if err != nil {
			return nil, err
		}
		if pairs = append(pairs, pair{without, with}); (n+1)%10 == 0 || n+1 == o.Turns {
			fmt.Fprintf(o.Out, "turns %d/%d  %s: %.3f × so far\n", n+1, o.Turns, row.Name, newTurns(pairs, 0).Ratio)
		}
	}
	with, err := b.sending(ctx, load, row.Spec.Traced, min(sendings, o.Turns))
	if err != nil {
		return nil, err
	}
	without, err := b.sending(ctx, load, 0, min(sendings, o.Turns))
	if err != nil {
		return nil, err
	}
	return newTurns(pairs, with-without), b.rig.Check()
}

// turn measures one.
func (b *bench) turn(ctx context.Context, load *closedloop.Load, sampling float64) (t turn, err error) {
	if err := b.rig.SetSampling(sampling); err != nil {
		return turn{}, err
	}
	if _, err := b.run(ctx, load, turnSettle); err != nil {
		return turn{}, err
	}
	engine, envoy, err := b.rig.RunTimes()
	if err != nil {
		return turn{}, err
	}
	result, err := b.run(ctx, load, turnLength)
	if err != nil {
		return turn{}, err
	}
	engineAfter, envoyAfter, err := b.rig.RunTimes()
	if err != nil {
		return turn{}, err
	}
	return turn{perRequest(engineAfter-engine, result), perRequest(envoyAfter-envoy, result)}, nil
}

// sending measures what the engine does once the load has stopped: it sends the spans that wait, as it does once in each sendingTime. It is in microseconds for one of the requests of such
// a time.
func (b *bench) sending(ctx context.Context, load *closedloop.Load, sampling float64, times int) (float64, error) {
	if err := b.rig.SetSampling(sampling); err != nil {
		return 0, err
	}
	var all []float64
	for range times {
		result, err := b.run(ctx, load, sendingTime)
		if err != nil {
			return 0, err
		}
		engine, _, err := b.rig.RunTimes()
		if err != nil {
			return 0, err
		}
		select {
		case <-time.After(sendingTime + turnSettle):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		after, _, err := b.rig.RunTimes()
		if err != nil {
			return 0, err
		}
		all = append(all, perRequest(after-engine, result))
	}
	slices.Sort(all)
	return quantile(all, 0.5), nil
}

// perRequest is in microseconds.
func perRequest(d time.Duration, r *closedloop.Result) float64 {
	return float64(d) / float64(time.Microsecond) / float64(r.Latencies.Count()+r.Failed)
}

func newTurns(pairs []pair, sending float64) *Turns {
	var ratios, without []float64
	for _, p := range pairs {
		ratios = append(ratios, p.ratio())
		without = append(without, p.without.engine)
	}
	slices.Sort(ratios)
	slices.Sort(without)
	t := &Turns{Pairs: len(pairs), Without: quantile(without, 0.5), Sending: sending}
	t.Ratio = quantile(ratios, 0.5) + sending/t.Without
	// Of a normal distribution, the quartiles are 1.35 deviations apart, and the median's error is 1.25 times the mean's: neither minds a few pairs that the machine disturbed.
	t.Error = 1.25 * (quantile(ratios, 0.75) - quantile(ratios, 0.25)) / 1.35 / math.Sqrt(float64(len(pairs)))
	return t
}

// quantile is that of sorted values, between two of them if need be.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (sorted[high]-sorted[low])*(at-float64(low))
}
