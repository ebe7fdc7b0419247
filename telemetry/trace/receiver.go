package trace

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// exportMethod is the method of OTLP over gRPC.
const exportMethod = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

// again has gRPC try again what a receiver does not take for now (OTLP specification, "Failures": the codes after which a client tries again; CANCELLED and DEADLINE_EXCEEDED are
// left out, because they are also what ends when our own time is over, and trying again would hide why).
const again = `{"methodConfig": [{"name": [{}], "retryPolicy": {
	"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
	"retryableStatusCodes": ["ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"]
}}]}`

// receiver is a receiver of OTLP over gRPC.
type receiver struct {
	conn    *grpc.ClientConn
	frame   frame
	headers metadata.MD
}

// newReceiver connects to nothing yet. The variables of the environment that OpenTelemetry has for exporters count for nothing: the configuration alone does.
func newReceiver(o Options) (*receiver, error) {
	secure := insecure.NewCredentials()
	if !o.Insecure {
		authorities, err := readAuthorities(o.CAFile)
		if err != nil {
			return nil, err
		}
		secure = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: authorities})
	}
	conn, err := grpc.NewClient(o.Endpoint, grpc.WithTransportCredentials(secure), grpc.WithDefaultServiceConfig(again), grpc.WithDisableServiceConfig(),
		grpc.WithUserAgent("policy-engine/"+o.Version), grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(messages{}), grpc.MaxRetryRPCBufferSize(2*maxBatchSize),
			grpc.WaitForReady(true), // A receiver that is down has as long as the batch may take.
		))
	if err != nil {
		return nil, fmt.Errorf("make the client of the receiver of spans: %w", err)
	}
	return &receiver{conn, newFrame(o), metadata.New(o.Headers)}, nil
}

// readAuthorities reads a file of certificates (PEM); nil stands for the system's.
func readAuthorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the authorities of the receiver of spans: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read the authorities of the receiver of spans: %q has no certificate (PEM)", file)
	}
	return pool, nil
}

// export implements exporter.
func (r *receiver) export(ctx context.Context, b *batch) (lost int, err error) {
	var response collectorv1.ExportTraceServiceResponse
	request := mem.BufferSlice{mem.SliceBuffer(r.frame.head(len(b.bytes))), mem.NewBuffer(&b.bytes, b.buffers)}
	if err := r.conn.Invoke(metadata.NewOutgoingContext(ctx, r.headers), exportMethod, request, &response); err != nil {
		return b.spans, err
	}
	partial := response.GetPartialSuccess()
	if rejected := partial.GetRejectedSpans(); rejected > 0 {
		return int(min(rejected, int64(b.spans))), fmt.Errorf("the receiver rejected %d spans: %.200q", rejected, partial.GetErrorMessage())
	}
	return 0, nil
}

func (r *receiver) close() { _ = r.conn.Close() }

// messages is the codec of requests that are bytes already.
type messages struct{}

// Name implements encoding.CodecV2.
func (messages) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (messages) Marshal(v any) (mem.BufferSlice, error) { return v.(mem.BufferSlice), nil }

// Unmarshal implements encoding.CodecV2.
func (messages) Unmarshal(data mem.BufferSlice, v any) error {
	return proto.Unmarshal(data.Materialize(), v.(proto.Message))
}
