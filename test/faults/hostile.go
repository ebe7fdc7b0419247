package main

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/policy-engine/policy-engine/test/stage"
	"github.com/policy-engine/policy-engine/test/traffic"
)

// The bounds of the kernel's ports on the stage of hostile clients: small enough that a row can reach them.
const (
	mostConnections  = 64
	mostMemory       = 64 << 20
	mostAdminClients = 32
)

// hostileSpec is a stage with routes that can be made expensive, and with ports that can be filled.
func hostileSpec(transport string) stage.Spec {
	return stage.Spec{
		Replicas: 2, Kernels: 1, Transport: transport, Routes: stage.HostileRoutes,
		Server: fmt.Sprintf("max_connections: %d, max_connections_per_peer: %d, max_memory: %dMiB", mostConnections, mostConnections, mostMemory>>20),
		Admin:  fmt.Sprintf("max_connections: %d, max_connections_per_peer: %d", mostAdminClients, mostAdminClients/2),
	}
}

// hostileFaults are the rows of clients that try to take from others what the engine has. In none of them may a usual
// request be lost, but where Envoy itself is restarted. The short form, which runs next to the tests of other packages,
// has only rows that need no processor time to speak of.
var hostileFaults = []fault{
	{name: "expensive bodies, jsonSchemaValidation", on: []string{hostile}, play: func(x *exercise) error {
		return x.expensive(stage.ExpensiveBody("schema"))
	}},
	{name: "expensive bodies, redact", on: []string{hostile}, play: func(x *exercise) error {
		return x.expensive(stage.ExpensiveBody("redact"))
	}},
	{name: "expensive paths, rewritePath", on: []string{hostile}, play: func(x *exercise) error {
		return x.expensive(stage.ExpensivePath())
	}},
	{name: "expensive queries, auditLog", on: []string{hostile}, play: func(x *exercise) error {
		return x.expensive(stage.ExpensiveQuery())
	}},
	{name: "policy takes processor time inline", on: []string{hostile}, play: burns},
	{name: "hundreds of late calls on one route", on: []string{hostile}, play: lateCalls},
	{name: "idle connections fill the port for Envoy", on: []string{hostile}, brief: []string{hostile}, play: idleConnections},
	{name: "half messages on many connections", on: []string{hostile}, play: halfMessages},
	{name: "connections fill the admin port", on: []string{hostile}, play: adminConnections},
	{name: "floods of frames", on: []string{hostile}, brief: []string{hostile}, play: floods},
}

// clients has so many clients send requests of a kind, each as often as that, one after the other. It returns how many
// requests got which status; 0 is no answer.
func (x *exercise) clients(kind *traffic.Kind, clients, each int) map[int]int {
	if x.brief {
		each = (each + 1) / 2
	}
	statuses := map[int]int{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for range each {
				if x.ctx.Err() != nil {
					return
				}
				status := x.sender.One(kind)
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return statuses
}

// expensive has one client send five requests of a kind, and then 40 clients at the same time. Each must be answered by
// the policy, and the replicas must not be taken for broken.
func (x *exercise) expensive(kind *traffic.Kind) error {
	x.inject(false)
	for range 5 {
		status := x.sender.One(kind)
		if wanted := kind.Expect == traffic.Pass && status == 200 || kind.Expect == traffic.Refuse && status >= 400 && status < 500; !wanted {
			return fmt.Errorf("%s: the status is %d, want that of the policy", kind.Name, status)
		}
	}
	x.clients(kind, 40, 4)
	return x.closed()
}

// closed returns an error if the circuit breaker of a replica is not closed, or a replica takes no calls.
func (x *exercise) closed() error {
	m, err := x.Scrape(0)
	if err != nil {
		return err
	}
	if !m.Has("policy_kernel_worker_breaker_state") {
		return errors.New("the kernel reports no circuit breaker")
	}
	if open := m.Sum("policy_kernel_worker_breaker_state"); open != 0 {
		return fmt.Errorf("the circuit breakers add up to %v, want 0: closed", open)
	}
	if up := m.Sum("policy_kernel_worker_replica_up"); up != float64(x.Replicas()) {
		return fmt.Errorf("%v replicas take calls, want %d", up, x.Replicas())
	}
	return nil
}

// grows returns an error unless a metric is larger after do than before.
func (x *exercise) grows(name string, do func() error, labels ...string) error {
	before, err := x.Scrape(0)
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return stage.Within(recovery, func() error {
		now, err := x.Scrape(0)
		if err == nil && now.Sum(name, labels...) <= before.Sum(name, labels...) {
			err = fmt.Errorf("%s%v is %v, as before", name, labels, now.Sum(name, labels...))
		}
		return err
	})
}

// burns has clients call a policy that takes 100 ms of processor time inline.
func burns(x *exercise) error {
	x.inject(false)
	err := x.grows("policy_worker_slow_inline_runs_total", func() error {
		x.clients(stage.Ordered("burn", "100ms"), 8, 10)
		return nil
	}, `policy="burn"`)
	return errors.Join(err, x.closed())
}

// lateCalls has 200 clients call a policy that waits until after the call's time is over. The worker ends most of these
// calls (500), shortly before the kernel would do it (504).
func lateCalls(x *exercise) error {
	x.inject(false)
	const clients = 200
	statuses := x.clients(stage.Ordered("late", "1s"), clients, 8)
	if late := statuses[http.StatusInternalServerError] + statuses[http.StatusGatewayTimeout]; late < clients {
		return fmt.Errorf("%d calls used up their time, want %d at least; the statuses are %v", late, clients, statuses)
	}
	return x.closed()
}

// idleConnections fills the port for Envoy with connections that have no requests, from Envoy's own address and from
// another, and restarts Envoy then. Nobody is served until it runs again; from then on nothing is lost, though more
// connections come.
func idleConnections(x *exercise) error {
	x.inject(true)
	var crowd crowd
	defer crowd.close()
	fill := func() error {
		return errors.Join(crowd.idle("127.0.0.1", x.Kernel(0), 2*mostConnections), crowd.idle("127.0.0.2", x.Kernel(0), mostConnections))
	}
	return x.grows(ended, func() error {
		if err := fill(); err != nil {
			return err
		}
		x.KillEnvoy()
		if err := errors.Join(fill(), x.heal(x.StartEnvoy), x.served()); err != nil {
			return err
		}
		err := fill()
		x.hold(time.Second)
		return errors.Join(err, x.withinConnections("envoy", mostConnections))
	}, `listener="envoy"`, `reason="evicted"`)
}

const ended = "policy_kernel_connections_ended_total"

// withinConnections returns an error if a listener has more connections than its bound.
func (x *exercise) withinConnections(listener string, most float64) error {
	m, err := x.Scrape(0)
	if err != nil {
		return err
	}
	if n := m.Sum("policy_kernel_connections", `listener="`+listener+`"`); n < 1 || n > most {
		return fmt.Errorf("the listener %s has %v connections, want 1 to %v", listener, n, most)
	}
	return nil
}

// halfMessages opens streams on connections of several addresses, and leaves a long message unfinished on each. Memory
// stays within its bound, but for what one read of each connection brings, and what comes beyond it is refused.
func halfMessages(x *exercise) error {
	x.inject(false)
	const peers, each, streams, part, read = 4, 4, 120, 60 << 10, 512 << 10
	var crowd crowd
	defer crowd.close()
	most := 0.0
	err := x.grows("policy_kernel_memory_refusals_total", func() error {
		for i := range peers * each {
			s, err := crowd.speak(fmt.Sprintf("127.0.0.%d", 10+i%peers), x.Kernel(0))
			if err != nil {
				return err
			}
			for n := range uint32(streams) {
				if s.half(2*n+1, part) != nil {
					break // The kernel has ended the connection.
				}
			}
			m, err := x.Scrape(0)
			if err != nil {
				return err
			}
			most = max(most, m.Sum("policy_kernel_connection_memory_bytes"))
		}
		x.hold(time.Second)
		return nil
	})
	if most > mostMemory+peers*each*read || most < mostMemory/4 {
		err = errors.Join(err, fmt.Errorf("connections held %.0f bytes, the bound is %d", most, mostMemory))
	}
	return err
}

// adminConnections fills the admin port with connections, half of them in the middle of a request. Health and metrics
// answer others.
func adminConnections(x *exercise) error {
	x.inject(false)
	var crowd crowd
	defer crowd.close()
	refused := func() (float64, error) {
		m, err := x.Scrape(0)
		return m.Sum(ended, `listener="admin"`), err
	}
	before, err := refused()
	if err != nil {
		return err
	}
	for i := range 12 {
		if err := crowd.slow(fmt.Sprintf("127.0.0.%d", 10+i), x.Admin(0), mostAdminClients); err != nil {
			return err
		}
		if err := x.Whole(); err != nil { // It connects anew, from another address.
			return fmt.Errorf("health with %d connections to the admin port: %w", (i+1)*mostAdminClients, err)
		}
	}
	x.hold(time.Second)
	after, err := refused()
	if err == nil && after-before < mostAdminClients {
		err = fmt.Errorf("%v connections to the admin port were refused or ended", after-before)
	}
	return errors.Join(err, x.withinConnections("admin", mostAdminClients))
}

// floods sends floods of frames, each on a connection of its own, which the kernel must end. The transport fast also
// counts why.
func floods(x *exercise) error {
	x.inject(false)
	for _, f := range frameFloods {
		flood := func() error {
			var crowd crowd
			defer crowd.close()
			for range 4 {
				s, err := crowd.speak("127.0.0.2", x.Kernel(0))
				if err != nil {
					return err
				}
				f.send(s)
				if err := s.gone(bound); err != nil {
					return fmt.Errorf("%s: %w", f.name, err)
				}
			}
			return nil
		}
		if x.Transport() != "fast" {
			if err := flood(); err != nil {
				return err
			}
			continue
		}
		if err := x.grows(ended, flood, `listener="envoy"`, `reason="`+f.reason+`"`); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return x.withinConnections("envoy", mostConnections)
}
