package chain

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/policies"
)

// clock is moved by the policies of a test.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func (c *clock) take(d time.Duration) requestFunc {
	return func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
		c.now = c.now.Add(d)
		r.SetHeader("x-took", d.String())
		return policies.Continue(), nil
	}
}

func TestInlineTimeout(t *testing.T) {
	const cont = workerv1.OnFailure_ON_FAILURE_CONTINUE
	c := &clock{time.Unix(1, 0)}
	tests := []struct {
		name     string
		patience time.Duration // of the caller
		queued   time.Duration // between arrival and run
		list     []Policy
		want     string
	}{
		{"in time", 0, 0, []Policy{{Instance: c.take(5), Timeout: 5}}, "CONTINUE SET_HEADER(x-took=5ns)"},
		{"no limit", 0, 0, []Policy{{Instance: c.take(time.Hour)}}, "CONTINUE SET_HEADER(x-took=1h0m0s)"},
		{"too long", 0, 0, []Policy{{Instance: c.take(6), Timeout: 5}}, "FAILED POLICY_TIMEOUT p0/timeout"},
		{"too long, continue", 0, 0, []Policy{{Instance: c.take(6), Timeout: 5, OnFailure: cont}, {Instance: set("x-b", "b")}}, "CONTINUE SET_HEADER(x-b=b)"},
		{"too late to refuse is none that passes", 0, 0, []Policy{{OnFailure: cont, Timeout: 5, Instance: requestFunc(func(context.Context, *policies.Request) (policies.Verdict, error) {
			c.now = c.now.Add(6)
			return policies.Deny(403, "x"), nil
		})}, {Instance: set("x-b", "b")}}, "FAILED POLICY_TIMEOUT p0/timeout"},
		{"each has its own", 0, 0, []Policy{{Instance: c.take(5), Timeout: 5}, {Instance: c.take(5), Timeout: 5}}, "CONTINUE SET_HEADER(x-took=5ns) SET_HEADER(x-took=5ns)"},
		{"caller's is shorter", time.Millisecond, 0, []Policy{{Instance: c.take(2 * time.Millisecond), Timeout: time.Second}}, "FAILED POLICY_TIMEOUT p0/timeout"},
		{"caller's is shared", time.Millisecond, 0, []Policy{{Instance: c.take(600 * time.Microsecond)}, {Instance: c.take(600 * time.Microsecond)}}, "FAILED POLICY_TIMEOUT p1/timeout"},
		{"queued for too long", time.Millisecond, time.Millisecond, []Policy{{Instance: set("x-b", "b")}}, "FAILED POLICY_TIMEOUT p0/timeout"},
		{"queued does not count for the policy", 0, time.Minute, []Policy{{Instance: c.take(5), Timeout: 5}}, "CONTINUE SET_HEADER(x-took=5ns)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			run := NewRun(&Settings{Limits: limits, Now: c.Now})
			call := requestCall()
			call.TimeoutUs = uint64(tt.patience / time.Microsecond)
			received := c.now
			c.now = c.now.Add(tt.queued)
			if err := run.Load(mustCompile(t, false, tt.list...), call, received, run.settings.Now(), new(holds)); err != nil {
				t.Fatal(err)
			}
			if !run.Inline(context.Background()) {
				t.Fatal("not ended")
			}
			if got := show(run.Result()); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// stubborn ignores its context, and goes on using its request until it is released.
func stubborn(release <-chan struct{}) requestFunc {
	return mess(func(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
		for i := 0; ; i++ {
			select {
			case <-release:
				return policies.Continue(), nil
			default:
			}
			r.SetHeader("x-a", "stubborn")
			r.SetMetadata("first", "stubborn")
			r.SetIdentity(policies.Identity{Subject: "stubborn"})
			for name, value := range r.Headers() {
				_ = string(name) + string(value)
			}
			if i%100 == 0 {
				r.SetHeader("x\n", "illegal")
			}
			runtime.Gosched()
		}
	})
}

func TestAbandoned(t *testing.T) {
	before := func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
		r.SetHeader("x-a", "before")
		r.SetMetadata("first", "before")
		r.SetMetadata("second", "before")
		r.SetMetadata("second", "changed")
		r.SetIdentity(policies.Identity{Subject: "alice"})
		return policies.Continue(), nil
	}
	for name, wrap := range map[string]func(requestFunc) any{
		"blocking": func(f requestFunc) any { return blockingFunc{f} },
		"await": func(f requestFunc) any {
			return mess(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
				return policies.Await(func(ctx context.Context) (policies.Verdict, error) { return f(ctx, r) }), nil
			})
		},
	} {
		for _, onFailure := range []workerv1.OnFailure{workerv1.OnFailure_ON_FAILURE_DENY, workerv1.OnFailure_ON_FAILURE_CONTINUE, workerv1.OnFailure_ON_FAILURE_SKIP_REMAINING} {
			t.Run(name+" "+onFailure.String(), func(t *testing.T) {
				release := make(chan struct{})
				l, h := new(log), new(holds)
				c := mustCompile(t, false,
					Policy{Instance: requestFunc(before)},
					Policy{Instance: wrap(stubborn(release)), OnFailure: onFailure, Timeout: 5 * time.Millisecond, Observer: l},
					Policy{Instance: set("x-after", "1")},
					Policy{Instance: requestFunc(look)},
				)
				run := NewRun(testSettings())
				if err := run.Load(c, requestCall(), time.Now(), time.Now(), h); err != nil {
					t.Fatal(err)
				}
				if run.Inline(context.Background()) {
					t.Fatal("ended inline")
				}
				run.Wait(context.Background())
				want := map[workerv1.OnFailure]string{
					0: "FAILED POLICY_TIMEOUT p1/timeout subject=alice",
					1: "IMMEDIATE p3/looked 200 a=before path=/orders?page=2 id=r-1 who=alice first=before second=changed subject=alice",
					2: "SKIP_REMAINING POLICY_TIMEOUT p1/timeout SET_HEADER(x-a=before) subject=alice",
				}[onFailure]
				if got := show(run.Result()); got != want {
					t.Errorf("got  %s\nwant %s", got, want)
				}
				if !run.Abandoned() {
					t.Error("the run does not say that it was abandoned")
				}
				if h.n.Load() != 1 {
					t.Errorf("%d holds, want 1: the policy still runs", h.n.Load())
				}
				if got := strings.Join(l.statuses, " "); got != "timeout" {
					t.Errorf("status %q", got)
				}
				close(release)
				h.wait(t)
			})
		}
	}
}

// TestAbandonedKeepsRemovals: what a client claims of itself does not come back because the policy that removed it hangs.
func TestAbandonedKeepsRemovals(t *testing.T) {
	for name, wrap := range map[string]func(requestFunc) any{
		"blocking": func(f requestFunc) any { return blockingFunc{f} },
		"await": func(f requestFunc) any {
			return requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
				return policies.Await(func(ctx context.Context) (policies.Verdict, error) { return f(ctx, r) }), nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			release, h := make(chan struct{}), new(holds)
			hangs := func(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
				r.RemoveSpellings("x-a")
				r.SetHeader("x-a", "mine")
				return stubborn(release)(ctx, r)
			}
			c := mustCompile(t, false,
				Policy{Instance: wrap(hangs), OnFailure: workerv1.OnFailure_ON_FAILURE_CONTINUE, Timeout: 50 * time.Millisecond},
				Policy{Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
					if _, n := r.Header("x-a"); n != 0 {
						return policies.Deny(403, "it_is_back"), nil
					}
					return policies.Continue(), nil
				})},
			)
			run := NewRun(testSettings())
			if err := run.Load(c, requestCall(), time.Now(), time.Now(), h); err != nil {
				t.Fatal(err)
			}
			run.Wait(context.Background())
			if got, want := show(run.Result()), "CONTINUE REMOVE_HEADER(x-a=)"; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			close(release)
			h.wait(t)
		})
	}
}

func TestBlockingTimeoutThatIsHeeded(t *testing.T) {
	obedient := blockingFunc{mess(func(ctx context.Context, _ *policies.Request) (policies.Verdict, error) {
		<-ctx.Done()
		return policies.Continue(), nil // Too late, whatever it says.
	})}
	h := new(holds)
	c := mustCompile(t, false, Policy{Instance: obedient}, Policy{Instance: set("x-after", "1")})
	run := NewRun(testSettings())
	call := requestCall()
	call.TimeoutUs = 2000 // The policy has no timeout of its own.
	if err := run.Load(c, call, time.Now(), time.Now(), h); err != nil {
		t.Fatal(err)
	}
	run.Wait(context.Background())
	if got, want := show(run.Result()), "FAILED POLICY_TIMEOUT p0/timeout"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	h.wait(t)
}

func TestPolicyThatEndsItsGoroutine(t *testing.T) {
	quitter := blockingFunc{func(context.Context, *policies.Request) (policies.Verdict, error) {
		runtime.Goexit()
		return policies.Continue(), nil
	}}
	got := show(execute(t, NewRun(testSettings()), mustCompile(t, false, Policy{Instance: quitter}), requestCall()))
	if want := "FAILED POLICY_PANIC p0/panic"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCancel(t *testing.T) {
	const cont = workerv1.OnFailure_ON_FAILURE_CONTINUE // Not even that lets a cancelled call pass.
	release := make(chan struct{})
	tests := []struct {
		name   string
		policy requestFunc
	}{
		{"heeded", func(ctx context.Context, _ *policies.Request) (policies.Verdict, error) {
			<-ctx.Done()
			return policies.Verdict{}, ctx.Err()
		}},
		{"ignored", func(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
			<-release
			return policies.Continue(), nil
		}},
	}
	h := new(holds)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := new(log)
			c := mustCompile(t, false, Policy{Instance: blockingFunc{tt.policy}, OnFailure: cont, Observer: l}, Policy{Instance: set("x", "y")})
			run := NewRun(testSettings())
			if err := run.Load(c, requestCall(), time.Now(), time.Now(), h); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(time.Millisecond, cancel)
			run.Wait(ctx)
			if got, want := show(run.Result()), "FAILED DRAINING /cancelled"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if got := strings.Join(l.statuses, " ") + strings.Join(l.failures, " "); got != "cancelled" {
				t.Errorf("observed %q", got)
			}
		})
	}
	close(release)
	h.wait(t)
}

func TestPoison(t *testing.T) {
	var kept *policies.Request
	c := mustCompile(t, false, Policy{Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
		kept = r
		return policies.Continue(), nil
	})}, Policy{Instance: requestFunc(look)})
	run := NewRun(testSettings())
	if got := show(execute(t, run, c, requestCall())); !strings.Contains(got, "looked") {
		t.Fatalf("the second policy could not use its request: %s", got)
	}
	defer func() {
		if recover() != policies.ErrAfterCall {
			t.Error("no panic")
		}
	}()
	kept.Method()
}
