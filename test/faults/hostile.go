package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
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

// patientWorker has calls wait for longer than usual. On a machine that has other work, a call may wait for a processor
// for longer than the usual 500 ms; a request that a hostile client holds up is held up for much longer than that.
const patientWorker = `      timeout: 2s
      health_check: {timeout: 1s}
`

// hostileSpec is a stage with routes that can be made expensive, and with ports that can be filled.
func hostileSpec(transport string) stage.Spec {
	return stage.Spec{
		Replicas: 2, Kernels: 1, Transport: transport, Routes: stage.HostileRoutes, Worker: patientWorker,
		Server: fmt.Sprintf("max_connections: %d, max_connections_per_peer: %d, max_memory: %dMiB", mostConnections, mostConnections, mostMemory>>20),
		Admin:  fmt.Sprintf("max_connections: %d, max_connections_per_peer: %d", mostAdminClients, mostAdminClients/2),
	}
}

// hostileFaults are the rows of clients that try to take from others what the engine has. In none of them may a usual
// request be lost, but where Envoy itself is restarted. The short form, which runs next to the tests of other packages,
// has only rows that need little processor time, with fewer clients.
var hostileFaults = []fault{
	{name: "expensive bodies, jsonSchemaValidation", on: []string{hostile}, brief: []string{hostile}, play: func(x *exercise) error {
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

// clients has so many clients send requests of a kind, each as often as that, one after the other; the short form has a
// tenth of the clients. It returns how many requests got which status; 0 is no answer.
func (x *exercise) clients(kind *traffic.Kind, clients, each int) map[int]int {
	if x.brief {
		clients = (clients + 9) / 10
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
	for status, n := range statuses {
		x.note(fmt.Sprintf("status %d", status), float64(n))
	}
	return statuses
}

// expensive has one client send five requests of a kind, each of which its policy must answer, and then 40 clients at
// the same time. The replicas must not be taken for broken meanwhile.
func (x *exercise) expensive(kind *traffic.Kind) error {
	x.inject(false)
	return x.whileClosed(func() error {
		for range 5 {
			status := x.sender.One(kind)
			x.note("one after the other", 1)
			if wanted := kind.Expect == traffic.Pass && status == 200 || kind.Expect == traffic.Refuse && status >= 400 && status < 500; !wanted {
				return fmt.Errorf("%s: the status is %d, want that of the policy", kind.Name, status)
			}
		}
		x.clients(kind, 40, 4)
		return nil
	})
}

// whileClosed returns an error if the circuit breaker of a replica is not closed during do, as far as it is looked at,
// or if a replica takes no calls afterwards.
func (x *exercise) whileClosed(do func() error) error {
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	var group sync.WaitGroup
	var opened error
	group.Go(func() {
		for ctx.Err() == nil {
			x.note("looks at the breakers", 1)
			if err := x.closed(); err != nil {
				opened = err
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	err := do()
	cancel()
	group.Wait()
	return errors.Join(err, opened, stage.Within(recovery, x.all))
}

// closed returns an error if the circuit breaker of a replica is not closed.
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
	return nil
}

// all returns an error if a replica takes no calls.
func (x *exercise) all() error {
	m, err := x.Scrape(0)
	if err != nil {
		return err
	}
	if up := m.Sum("policy_kernel_worker_replica_up"); up != float64(x.Replicas()) {
		return fmt.Errorf("%v replicas take calls, want %d", up, x.Replicas())
	}
	return nil
}

// grows returns an error unless a metric is larger by least after do than before.
func (x *exercise) grows(name string, least float64, do func() error, labels ...string) error {
	before, err := x.Scrape(0)
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return stage.Within(recovery, func() error {
		now, err := x.Scrape(0)
		if err != nil {
			return err
		}
		more := now.Sum(name, labels...) - before.Sum(name, labels...)
		if more < least {
			return fmt.Errorf("%s%v has grown by %v, want %v at least", name, labels, more, least)
		}
		x.note(name+"{"+strings.Join(labels, ",")+"}", more)
		return nil
	})
}

// burns has clients call a policy that takes 100 ms of processor time inline.
func burns(x *exercise) error {
	x.inject(false)
	return x.grows("policy_worker_slow_inline_runs_total", 1, func() error {
		return x.whileClosed(func() error {
			x.clients(stage.Ordered("burn", "100ms"), 8, 10)
			return nil
		})
	}, `policy="burn"`)
}

// lateCalls has 200 clients call a policy that waits until after the call's time is over. The worker ends most of these
// calls (500), shortly before the kernel would do it (504).
func lateCalls(x *exercise) error {
	x.inject(false)
	const clients = 200
	return x.whileClosed(func() error {
		statuses := x.clients(stage.Ordered("late", "3s"), clients, 3)
		late := statuses[http.StatusInternalServerError] + statuses[http.StatusGatewayTimeout]
		if late < clients {
			return fmt.Errorf("%d calls used up their time, want %d at least; the statuses are %v", late, clients, statuses)
		}
		return nil
	})
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
	return x.grows(ended, mostConnections, func() error {
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
	n := m.Sum("policy_kernel_connections", `listener="`+listener+`"`)
	x.note("connections left", n)
	if n < 1 || n > most {
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
	err := x.grows("policy_kernel_memory_refusals_total", 1, func() error {
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
	x.note("most bytes held", most)
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
	x.note("connections refused or ended", after-before)
	if err == nil && after-before < mostAdminClients {
		err = fmt.Errorf("%v connections to the admin port were refused or ended", after-before)
	}
	return errors.Join(err, x.withinConnections("admin", mostAdminClients))
}

// floods sends floods of frames, each on connections of its own, which the kernel must end, and count why. With the
// transport grpc, grpc-go may find a header block too large before the kernel does, and ends the connection itself.
func floods(x *exercise) error {
	x.inject(false)
	const each = 4
	for _, f := range frameFloods {
		least := float64(each)
		if x.Transport() != "fast" && f.reason == "header_list_too_large" {
			least = 0
		}
		if err := x.grows(ended, least, func() error {
			var crowd crowd
			defer crowd.close()
			for range each {
				s, err := crowd.speak("127.0.0.2", x.Kernel(0))
				if err != nil {
					return err
				}
				f.send(s)
				if err := s.gone(recovery); err != nil {
					return err
				}
				x.note("floods that ended their connection", 1)
			}
			return nil
		}, `listener="envoy"`, `reason="`+f.reason+`"`); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return x.withinConnections("envoy", mostConnections)
}
