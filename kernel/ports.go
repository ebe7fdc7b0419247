package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/memory"
	"github.com/policy-engine/policy-engine/kernel/listener"
	"github.com/policy-engine/policy-engine/limits"
	"github.com/policy-engine/policy-engine/telemetry"
)

const (
	// usualMemory is what all connections of Envoy may hold where neither the configuration nor a memory limit says it, in bytes.
	usualMemory = 256 << 20
	// otherDescriptors is how many file descriptors are kept for all that is no connection of a client: files, logs, sockets of the runtime.
	otherDescriptors = 128
	// leastConnections is how many connections of Envoy there must be room for.
	leastConnections = 16
	// requestGrace is how long a connection that has asked for something may go without any answer before it may be closed to make room for another one.
	requestGrace = 10 * time.Second
	// answerGrace is how long one may go without a further answer: a request may take its time, but Envoy seldom has so little else to ask.
	answerGrace = time.Minute
)

// The names of the listeners in labels and lines.
const (
	envoyPort = "envoy"
	adminPort = "admin"
)

// ports are what the kernel listens on, with what it counts of their connections.
type ports struct {
	envoy, admin *listener.Limited
	// guarded is the listener for the guarded pages alone; nil if they are on the admin port.
	guarded  *listener.Limited
	set      *metrics.Set
	log      *zap.Logger
	throttle *telemetry.Throttle
}

func newPorts(set *metrics.Set, log *zap.Logger) *ports {
	return &ports{set: set, log: log, throttle: telemetry.NewThrottle(repeatAfter, time.Now)}
}

// open opens all listeners. descriptors is how many file descriptors the process may have.
func (p *ports) open(cfg *config.Kernel, descriptors int) (err error) {
	most, err := p.connections(cfg, descriptors)
	if err != nil {
		return err
	}
	var opened []net.Listener
	defer func() {
		if err != nil {
			for _, l := range opened {
				err = errors.Join(err, l.Close())
			}
		}
	}()
	limited := func(name string, l net.Listener, most, perPeer int) *listener.Limited {
		opened = append(opened, l)
		limits := listener.Limits{Max: most, PerPeer: perPeer, Grace: requestGrace, Report: func(reason string, peer net.Addr) { p.ended(name, reason, peer) }}
		if name == envoyPort { // An admin page may take longer, and has a bound of its own.
			limits.Stall = answerGrace
		}
		return listener.Limit(l, limits)
	}
	l, err := listener.Open(cfg.Server)
	if err != nil {
		return err
	}
	p.envoy = limited(envoyPort, l, most, cmp.Or(cfg.Server.MaxConnectionsPerPeer, most))
	if l, err = net.Listen("tcp", net.JoinHostPort(cfg.Admin.Address, strconv.Itoa(cfg.Admin.Port))); err != nil {
		return fmt.Errorf("listen for admin requests: %w", err)
	}
	adminMost, adminPerPeer := cfg.Admin.MaxConnections, cfg.Admin.MaxConnectionsPerPeer
	p.admin = limited(adminPort, l, adminMost, adminPerPeer)
	switch address := cfg.Admin.GuardedAddress; address {
	case "", config.GuardedLoopback, config.GuardedAll:
	default:
		if l, err = listener.OpenGuarded(address); err != nil {
			return err
		}
		p.guarded = limited(adminPort, l, adminMost, adminPerPeer)
	}
	p.set.NewGauge(telemetry.Series("policy_kernel_connections", "listener", envoyPort), func() float64 { return float64(p.envoy.Open()) })
	p.set.NewGauge(telemetry.Series("policy_kernel_connections", "listener", adminPort), func() float64 {
		n := p.admin.Open()
		if p.guarded != nil {
			n += p.guarded.Open()
		}
		return float64(n)
	})
	return nil
}

// connections is how many connections of Envoy there may be: as many as configured, or fewer where the limit of open files leaves less beside what else the kernel needs.
func (p *ports) connections(cfg *config.Kernel, descriptors int) (int, error) {
	others := otherDescriptors + 2*cfg.Admin.MaxConnections
	for i := range cfg.Workers {
		w := &cfg.Workers[i]
		others += len(w.SocketPaths) * (w.Connections + 2)
	}
	wanted := cmp.Or(cfg.Server.MaxConnections, math.MaxInt32)
	left := descriptors - others
	if left < leastConnections {
		return 0, fmt.Errorf("the limit of open files is %d, must be at least %d for %d connections of Envoy beside all others; raise it (ulimit -n), or lower policy_kernel.admin.max_connections",
			descriptors, others+leastConnections, leastConnections)
	}
	if left < wanted && cfg.Server.MaxConnections > 0 {
		p.log.Warn("the limit of open files leaves fewer connections of Envoy than configured; raise it, or lower policy_kernel.server.max_connections",
			zap.Int("limit", descriptors), zap.Int("needed", wanted+others), zap.Int("connections", left))
	}
	return min(wanted, left), nil
}

// ended counts a connection that was refused or ended by the kernel, and logs it.
func (p *ports) ended(port, reason string, peer net.Addr) {
	p.set.GetOrCreateCounter(telemetry.Series("policy_kernel_connections_ended_total", "listener", port, "reason", reason)).Inc()
	if suppressed, ok := p.throttle.Allow(port + reason); ok {
		fields := []zap.Field{zap.String("listener", port), zap.String("reason", reason), zap.Int("suppressed", suppressed)}
		if peer != nil {
			fields = append(fields, zap.String("peer", memory.Peer(peer)))
		}
		p.log.Warn("connection refused or ended by the kernel", fields...)
	}
}

// memory is what all connections of Envoy may hold.
func connectionMemory(cfg *config.Server) *memory.Budget {
	return memory.New(cmp.Or(cfg.MaxMemory, limits.Memory()/2, usualMemory))
}

// refusedForMemory counts a stream or message that was refused because the memory of all connections is used up.
func (p *ports) refusedForMemory(refusals *metrics.Counter) func() {
	return func() {
		refusals.Inc()
		if suppressed, ok := p.throttle.Allow("memory"); ok {
			p.log.Warn("the memory for connections of Envoy is used up; streams and messages are refused", zap.Int("suppressed", suppressed))
		}
	}
}
