// noop-fast answers every ext_proc message with "continue" on the lean transport: the floor that the engine is measured against.
package main

import (
	"flag"
	"log"
	"net"
	"os"
	"runtime"

	"github.com/policy-engine/policy-engine/fastpath/h2"
)

// process is the ext_proc method (envoy/service/ext_proc/v3/external_processor.proto).
const process = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

// Answers: ProcessingResponse.request_headers and .response_headers, both empty.
var (
	requestHeaders  = []byte{1<<3 | 2, 0}
	responseHeaders = []byte{2<<3 | 2, 0}
)

type handler struct{}

func (handler) Open(_ *h2.Stream, r *h2.Request) h2.Receiver {
	if r.Path == process {
		return call{}
	}
	return nil
}

func (handler) AfterRead(*h2.Conn) {}

type call struct{}

func (call) Message(s *h2.Stream, msg []byte) {
	// The first field is request_headers (2) or response_headers (3).
	if len(msg) > 0 && msg[0] == 3<<3|2 {
		s.Finish(responseHeaders)
		return
	}
	s.Finish(requestHeaders)
}
func (call) HalfClose(s *h2.Stream) { s.Fail(9, "closed before a message") }
func (call) Reset(*h2.Stream)       {}

func main() {
	addr := flag.String("listen", "127.0.0.1:9101", "address to listen on")
	flag.Parse()
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(1, runtime.GOMAXPROCS(0)/2)) // As the engine does.
	}
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(h2.NewServer(h2.Config{}, handler{}).Serve(l))
}
