// span-sink is a receiver of OpenTelemetry's spans (OTLP over gRPC) that throws them away, for measurements of what tracing costs the engine.
package main

import (
	"context"
	"flag"
	"log"
	"net"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

type sink struct {
	collectorv1.UnimplementedTraceServiceServer
}

// Export implements collectorv1.TraceServiceServer.
func (sink) Export(context.Context, *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func main() {
	listen := flag.String("listen", "127.0.0.1:4317", "the `address` to listen on")
	flag.Parse()
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	s := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(s, sink{})
	log.Fatal(s.Serve(l))
}
