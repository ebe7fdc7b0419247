// Package trace makes the spans of OpenTelemetry that kernel and workers tell of requests, and sends them to a receiver.
//
// Whether a request is traced is decided without the library, and without an allocation. What is traced never waits: spans go into a bounded queue, and those that don't
// fit, or that the receiver does not take in time, are lost and counted.
package trace

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/credentials"
)

// Options say where spans go, and of which requests there are some.
type Options struct {
	// Service, Version and Instance name the process: policy-kernel, or policy-worker and the worker's name.
	Service, Version, Instance string
	// Endpoint is host:port of a receiver of OTLP over gRPC.
	Endpoint string
	// Insecure is without TLS; else CAFile has the authorities, or is empty for the system's.
	Insecure bool
	CAFile   string
	Headers  map[string]string
	// Timeout bounds the sending of a batch.
	Timeout time.Duration
	// QueueSize is how many spans may wait.
	QueueSize int
	// Rate is the share of requests that Sample takes, from 0 to 1; ParentLimit is how many a second it takes because the client wants it.
	Rate        float64
	ParentLimit int
	// Failed is told, from a goroutine that sends, that spans were lost. It may be nil.
	Failed func(spans int, err error)
}

// Tracer makes spans and sends them. It is safe for concurrent use.
type Tracer struct {
	trace.Tracer
	sampler sampler
	queue   *queue
	stop    context.CancelFunc
}

const (
	// maxBatch is how many spans go to the receiver together, and batchDelay how long the first one waits for others.
	maxBatch   = 512
	batchDelay = time.Second
	// Limits of what one span may hold. What is beyond is cut off.
	maxAttributes = 32
	maxValue      = 256 // bytes
)

// New makes a tracer. Nothing is connected before the first span; a receiver that is down is no error.
func New(o Options) (*Tracer, error) {
	client, err := connect(o)
	if err != nil {
		return nil, err
	}
	sending, stop := context.WithCancel(context.Background())
	q := newQueue(sending, client, o)
	// Not resource.Default(): it looks for the host, the process and the environment, none of which is asked for.
	about := newResource(o)
	p := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.AlwaysSample()), // Sample has decided.
		sdktrace.WithResource(about),
		sdktrace.WithSpanProcessor(q),
		sdktrace.WithRawSpanLimits(sdktrace.SpanLimits{
			AttributeValueLengthLimit: maxValue, AttributeCountLimit: maxAttributes, EventCountLimit: maxAttributes, LinkCountLimit: 1,
			AttributePerEventCountLimit: maxAttributes, AttributePerLinkCountLimit: maxAttributes,
		}),
	)
	t := &Tracer{Tracer: p.Tracer("github.com/policy-engine/policy-engine", trace.WithInstrumentationVersion(o.Version)), queue: q, stop: stop}
	t.sampler.now = time.Now
	t.SetSampling(o.Rate, o.ParentLimit)
	return t, nil
}

// connect makes the client of the receiver. The variables of the environment that the library would read are all overridden: the configuration alone counts.
func connect(o Options) (sdktrace.SpanExporter, error) {
	options := []otlptracegrpc.Option{
		otlptracegrpc.WithEndpoint(o.Endpoint), otlptracegrpc.WithHeaders(o.Headers), otlptracegrpc.WithTimeout(o.Timeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: 100 * time.Millisecond, MaxInterval: time.Second, MaxElapsedTime: o.Timeout}),
	}
	if o.Insecure {
		options = append(options, otlptracegrpc.WithInsecure())
	} else {
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if o.CAFile != "" {
			pem, err := os.ReadFile(o.CAFile)
			if err != nil {
				return nil, fmt.Errorf("read the authorities of the receiver of spans: %w", err)
			}
			config.RootCAs = x509.NewCertPool()
			if !config.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("read the authorities of the receiver of spans: %q has no certificate (PEM)", o.CAFile)
			}
		}
		options = append(options, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(config)))
	}
	client, err := otlptracegrpc.New(context.Background(), options...)
	if err != nil {
		return nil, fmt.Errorf("make the client of the receiver of spans: %w", err)
	}
	return client, nil
}

// Spans counts those that were made, and Lost those of them that did not arrive.
func (t *Tracer) Spans() uint64 { return t.queue.made.Load() }

// Lost counts the spans that were made and did not arrive.
func (t *Tracer) Lost() uint64 { return t.queue.lost.Load() }

// Close sends what waits, for as long as that may take; what is left then is lost.
func (t *Tracer) Close(patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stopSending := context.AfterFunc(ctx, t.stop) // A receiver that hangs is left.
	err := t.queue.Shutdown(ctx)                  // Not the provider's, which does nothing once ctx has ended.
	stopSending()
	t.stop()
	t.queue.abandon()
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("send the last spans: the receiver took longer than %v", patience)
	}
	return err
}

// Text is an attribute, of which it keeps a copy: what is borrowed is gone when the span is sent. What is no UTF-8 in it is replaced: one such value would have the
// receiver refuse a whole batch.
func Text(key, value string) attribute.KeyValue { return attribute.String(key, clean(value)) }
