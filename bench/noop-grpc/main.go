// noop-grpc answers every ext_proc message with "continue" on grpc-go, tuned as well as we can: what a server that does nothing costs. bench/README.md says what was tried.
package main

import (
	"flag"
	"log"
	"net"
	"os"
	"runtime"
	"runtime/debug"

	"google.golang.org/grpc"

	"github.com/policy-engine/policy-engine/fastpath/codec"
)

var (
	requestHeaders  = codec.Frame{B: []byte{1<<3 | 2, 0}}
	responseHeaders = codec.Frame{B: []byte{2<<3 | 2, 0}}
)

func serve(_ any, st grpc.ServerStream) error {
	var f codec.Frame
	if err := st.RecvMsg(&f); err != nil {
		return err
	}
	answer := &requestHeaders
	if len(f.B) > 0 && f.B[0] == 3<<3|2 {
		answer = &responseHeaders
	}
	return st.SendMsg(answer) // The stream closes with the answer, as the engine's does.
}

// tune sets the collector and the number of processors, unless the environment says them.
func tune() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(1, runtime.GOMAXPROCS(0)/2)) // As the engine does.
	}
}

func main() {
	addr := flag.String("listen", "127.0.0.1:9102", "address to listen on")
	workers := flag.Uint("stream-workers", 32, "grpc-go's NumStreamWorkers; 0 is a goroutine for each stream")
	bodies := flag.Bool("bodies", false, "answer every message of a stream, as bodies need, in place of the first alone")
	duplex := flag.Bool("full-duplex", false, "as -bodies, for Envoy's mode FULL_DUPLEX_STREAMED: bodies are given back")
	flag.Parse()
	tune()
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	s := grpc.NewServer(
		grpc.ForceServerCodecV2(codec.Codec{}),
		grpc.NumStreamWorkers(uint32(*workers)),
		grpc.StaticStreamWindowSize(1<<20), grpc.StaticConnWindowSize(16<<20),
		grpc.MaxConcurrentStreams(65536),
	)
	handler := serve
	switch {
	case *duplex:
		handler = serveDuplex
	case *bodies:
		handler = serveBodies
	}
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "envoy.service.ext_proc.v3.ExternalProcessor", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Process", Handler: handler, ServerStreams: true, ClientStreams: true}},
	}, struct{}{})
	log.Fatal(s.Serve(l))
}
