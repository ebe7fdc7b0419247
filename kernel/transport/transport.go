// Package transport chooses the server of ext_proc that the configuration names. Both drive the same state machines and pass the same tests.
package transport

import (
	"context"
	"net"

	"go.uber.org/zap"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/memory"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/fasttransport"
	"github.com/policy-engine/policy-engine/kernel/grpctransport"
)

// Server serves ext_proc and the gRPC health protocol.
type Server interface {
	// Serve accepts connections until Drain. It closes the listener.
	Serve(net.Listener) error
	// SetServing says what health checkers are told until Drain; at first it is true. Streams are taken all the same.
	SetServing(bool)
	// Drain tells peers that the server goes away, and lets streams finish until ctx ends; no stream ends with OK because of it.
	Drain(context.Context)
	// Streams is how many streams are open.
	Streams() int64
	// Held is what the connections hold of Options.Memory, in bytes.
	Held() int64
	// AfterBatch is to be called when calls were completed together: the answers leave then at the latest.
	AfterBatch()
}

// Options are what a server is given.
type Options struct {
	Config config.Server
	// New makes a machine. Machines are used again.
	New    func() extproc.Driven
	Logger *zap.Logger
	// Panicked is called for each panic of a machine, after it was logged.
	Panicked func()
	// Bodies bounds what bodies take that wait to be read by a machine; it may be nil.
	Bodies *extproc.Budget
	// Memory is what all connections may hold; nil has no bound. Refused is called for each stream and message that is refused because it is used up; it may be nil.
	Memory  *memory.Budget
	Refused func()
	// Ended is called with why the server has ended a connection, one of h2.Reasons, and the peer's address. The transport
	// grpc calls it for floods of frames only. It may be nil.
	Ended func(reason string, peer net.Addr)
}

// New makes the server.
func New(o Options) (Server, error) {
	if o.Config.Transport == config.TransportGRPC {
		// It reads a stream no further than its machine takes it: what waits, waits in Envoy.
		return grpctransport.New(grpctransport.Options{
			Config: o.Config, New: o.New, Logger: o.Logger, Panicked: o.Panicked, Memory: o.Memory, Refused: o.Refused, Ended: o.Ended,
		})
	}
	return fasttransport.New(fasttransport.Options(o))
}
