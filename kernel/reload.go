package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/limits"
	"github.com/policy-engine/policy-engine/telemetry"
	"github.com/policy-engine/policy-engine/telemetry/trace"
	"github.com/policy-engine/policy-engine/watch"
)

// settleFile is how long the configuration's folder must be quiet, and then its content the same, before a change is taken over.
const settleFile = 150 * time.Millisecond

// Outcome is what became of a reload.
type Outcome struct {
	// Status is applied, unchanged, refused (the file has mistakes) or failed (something else).
	Status string `json:"status"`
	// Cause is file, SIGHUP, admin, or retry.
	Cause string    `json:"cause"`
	Time  time.Time `json:"time"`
	File  string    `json:"file"`
	// SHA256 is of the file's text, if it could be read.
	SHA256 string `json:"sha256,omitempty"`
	// Generation is the one in use after it.
	Generation uint64 `json:"generation"`
	// Mistakes are why the last good configuration stays.
	Mistakes []string `json:"mistakes,omitempty"`
}

// The statuses.
const (
	statusApplied   = "applied"
	statusUnchanged = "unchanged"
	statusRefused   = "refused"
	statusFailed    = "failed"
)

func (o *Outcome) good() bool { return o.Status == statusApplied || o.Status == statusUnchanged }

// reloader takes over what the configuration file says, when it changes or somebody asks for it.
type reloader struct {
	file        string
	log         *telemetry.Logger
	distributor *distributor
	succeeded   *metrics.Counter
	failed      *metrics.Counter
	// tracer is nil if nothing is traced.
	tracer *trace.Tracer

	// attempt is held during one: they come one after the other.
	attempt sync.Mutex
	// waiting is a configuration without mistakes of its own that the workers did not take: it is tried again.
	waiting *config.Kernel

	mu   sync.Mutex
	last *Outcome
	// success is when the configuration in use was confirmed last, in Unix seconds.
	success float64
}

func newReloader(file string, d *distributor, log *telemetry.Logger, set *metrics.Set) *reloader {
	const total = "policy_kernel_config_reload_total"
	r := &reloader{
		file: file, distributor: d, log: log, success: float64(d.now().Unix()),
		succeeded: set.NewCounter(telemetry.Series(total, "status", "success")), failed: set.NewCounter(telemetry.Series(total, "status", "failure")),
	}
	set.NewGauge("policy_kernel_config_last_success_timestamp_seconds", func() float64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.success
	})
	set.NewGauge("policy_kernel_config_last_reload_successful", func() float64 {
		if last := r.outcome(); last != nil && !last.good() {
			return 0
		}
		return 1
	})
	// The low half counts; the high half is the kernel's own, and more than a float64 holds.
	set.NewGauge("policy_kernel_config_generation", func() float64 { return float64(uint32(d.routes.Current().Generation())) })
	return r
}

// outcome is that of the last attempt, nil if there was none.
func (r *reloader) outcome() *Outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// run follows the file, and takes signals, until ctx ends.
func (r *reloader) run(ctx context.Context, hangups <-chan os.Signal) {
	if r.file == "" {
		<-ctx.Done()
		return
	}
	follower := watch.FollowFrom(r.distributor.config().Digest, watch.Settings{
		Path: r.file, MaxSize: config.MaxFileSize, Settle: settleFile, Log: r.log.Slog(),
		// What a writer has not finished may be a configuration too, with fewer policies; but it seldom ends with a line.
		Complete: func(content []byte) bool { return bytes.HasSuffix(content, []byte("\n")) },
		Load:     func(content []byte) error { r.changed(ctx, content, nil); return nil },
		Failed:   func(err error) { r.changed(ctx, nil, err) },
	})
	defer func() { _ = follower.Close() }() // It never fails.
	retry := time.NewTicker(retryAfter)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			r.reload(ctx, "SIGHUP")
		case <-retry.C:
			r.again(ctx)
		}
	}
}

// reload reads the file and takes over what it says.
func (r *reloader) reload(ctx context.Context, cause string) *Outcome {
	r.attempt.Lock()
	defer r.attempt.Unlock()
	content, err := r.read(ctx)
	return r.take(ctx, cause, content, err)
}

// changed takes a content that the follower has found, or notes why it found none, unless the file is another one by now: while this waited for its turn, somebody may have taken that, and it
// must not be followed by what was there before. The follower finds it too.
func (r *reloader) changed(ctx context.Context, content []byte, unreadable error) {
	r.attempt.Lock()
	defer r.attempt.Unlock()
	now, err := watch.Read(r.file, config.MaxFileSize)
	if (err == nil) != (unreadable == nil) || !bytes.Equal(now, content) {
		return
	}
	if last := r.outcome(); last != nil && unreadable == nil && last.SHA256 == digest(content) {
		return // It came with a signal or a request of the admin, and that told what became of it.
	}
	r.take(ctx, "file", content, unreadable)
}

// read waits for a writer for a while, who is about to finish most likely.
func (r *reloader) read(ctx context.Context) ([]byte, error) {
	for deadline := time.Now().Add(time.Second); ; {
		content, err := watch.Read(r.file, config.MaxFileSize)
		var busy *watch.BusyError
		if !errors.As(err, &busy) || time.Now().After(deadline) {
			return content, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(settleFile / 5):
		}
	}
}

// take takes over a content of the file, or notes why it could not be read. attempt is held.
func (r *reloader) take(ctx context.Context, cause string, content []byte, unreadable error) (o *Outcome) {
	limits.Aside(func() { o = r.takeAside(ctx, cause, content, unreadable) })
	return o
}

// takeAside is take, on the thread that it has for that.
func (r *reloader) takeAside(ctx context.Context, cause string, content []byte, unreadable error) *Outcome {
	r.waiting = nil
	if unreadable != nil {
		return r.note(ctx, &Outcome{Cause: cause}, nil, unreadable)
	}
	o := &Outcome{Cause: cause, SHA256: digest(content)}
	cfg, err := config.ParseKernel(r.file, content)
	if err != nil {
		return r.note(ctx, o, nil, err)
	}
	current := r.distributor.config()
	if err := current.RestartNeeded(cfg); err != nil {
		return r.note(ctx, o, cfg, err)
	}
	if cfg.Digest == current.Digest && r.distributor.state() == "" {
		o.Status = statusUnchanged
		return r.note(ctx, o, cfg, nil)
	}
	logWarnings(r.log, cfg)
	return r.note(ctx, o, cfg, r.bring(ctx, cfg, current))
}

// logWarnings logs what is valid in the file and probably not meant.
func logWarnings(log *telemetry.Logger, cfg *config.Kernel) {
	for _, w := range cfg.Warnings {
		log.Warn("the configuration is probably not what was meant", zap.String("warning", w.Error()))
	}
}

// again tries a configuration that the workers did not take. It tells only of news.
func (r *reloader) again(ctx context.Context) {
	r.attempt.Lock()
	defer r.attempt.Unlock()
	cfg := r.waiting
	if cfg == nil {
		return
	}
	var err error
	limits.Aside(func() { err = r.bring(ctx, cfg, r.distributor.config()) })
	if last := r.outcome(); err != nil && ctx.Err() == nil && last != nil && fmt.Sprint(last.Mistakes) == fmt.Sprint(lines(err)) {
		return
	}
	r.note(ctx, &Outcome{Cause: "retry", SHA256: digest(cfg.Text)}, cfg, err)
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// bring has the distributor bring the configuration into use. attempt is held.
func (r *reloader) bring(ctx context.Context, cfg, current *config.Kernel) error {
	done := make(chan error, 1)
	select {
	case r.distributor.reloads <- reload{cfg, done}:
	case <-ctx.Done():
		return ctx.Err()
	}
	err := <-done
	if err != nil {
		r.waiting = cfg
		return err
	}
	r.waiting = nil
	if t := cfg.Observability.Tracing; r.tracer != nil {
		r.tracer.SetSampling(t.SamplingRate, t.ParentLimit)
	}
	if level := cfg.Observability.LogLevel; level != current.Observability.LogLevel {
		return r.log.SetLevel(level)
	}
	return nil
}

// note counts, keeps and logs an outcome.
func (r *reloader) note(ctx context.Context, o *Outcome, cfg *config.Kernel, err error) *Outcome {
	o.Time, o.File, o.Generation = r.distributor.now().UTC(), r.file, r.distributor.routes.Current().Generation()
	var found config.Errors
	switch {
	case err == nil && o.Status == "":
		o.Status = statusApplied
	case errors.As(err, &found):
		o.Status = statusRefused
	case err != nil:
		o.Status = statusFailed
	}
	o.Mistakes = lines(err)
	if ctx.Err() != nil && err != nil {
		return o // The kernel ends: that is nobody's mistake.
	}
	r.mu.Lock()
	r.last = o
	if err == nil {
		r.success = float64(o.Time.Unix())
	}
	r.mu.Unlock()
	fields := []zap.Field{zap.String("cause", o.Cause), zap.String("file", o.File), zap.String("sha256", o.SHA256), zap.Uint64("generation", o.Generation)}
	if err != nil {
		r.failed.Inc()
		r.log.Error("reload: the configuration is not taken over; the last good one stays", append(fields, zap.Strings("mistakes", o.Mistakes))...)
		return o
	}
	r.succeeded.Inc()
	if o.Status == statusUnchanged {
		r.log.Info("reload: the configuration has not changed", fields...)
		return o
	}
	r.log.Info("reload: the configuration is taken over", append(fields, zap.Int("routes", len(cfg.Routes)), zap.Int("workers", len(cfg.Workers)))...)
	return o
}

// lines are the mistakes one by one.
func lines(err error) []string {
	var found config.Errors
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &found):
		return []string{err.Error()}
	}
	all := make([]string, len(found))
	for i := range found {
		all[i] = found[i].Error()
	}
	return all
}
