package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/test/process"
)

const (
	// small is a memory limit that bodies reach.
	small = "96m"
	// pressure is how many clients send large bodies at the same time, without a limit of the kernel's for all of them.
	pressure = 200
	// bodySize of each, below what Envoy and the kernel take for one.
	bodySize = 900 << 10
)

const memoryKernel = `policy_kernel:
  server: {address: 127.0.0.1, port: "${PORT_KERNEL}"}
  admin: {address: 127.0.0.1, port: "${PORT_ADMIN}"}
  limits: {max_body_size: 3MiB, max_total_body_size: 64GiB}
  workers:
    - {name: worker-1, socket_path: /var/run/policy-engine/workers/worker-1.sock, timeout: 3s}
  route_policies:
    - route_name: upload
      request_flow:
        policy_chain:
          - policy: jsonSchemaValidation
            timeout: 3s
            params: {schema: {type: object, required: [fine], properties: {fine: {const: true}}}}
`

const memoryWorker = `policy_worker:
  name: worker-1
  socket_path: /var/run/policy-engine/workers/worker-1.sock
  resource_limits: {max_body_size: 3MiB}
`

// memory: the container reaches its memory limit. Linux ends a program, and nothing passes that was not looked at; then all is well again.
func (t *trial) memory(ctx context.Context) error {
	dir, flags, err := t.folder("memory", map[string]string{"kernel-config.yaml": memoryKernel, "worker-config-1.yaml": memoryWorker})
	if err != nil {
		return err
	}
	tight := *t.restrictions
	tight.MemLimit = small
	c, err := t.engine.start(ctx, &tight, flags...)
	if err == nil {
		err = c.ready(ctx)
	}
	if err != nil {
		return err
	}
	// In full duplex it is the kernel that keeps a body until it is whole: Envoy would have long ones wait for their turn.
	r, err := startRig(ctx, c, dir+"/kernel-config.yaml", t.work, "--full-duplex", "*")
	if err != nil {
		return err
	}
	defer r.stop()
	seen, err := r.exhausted(ctx)
	t.suite.check("memory limit of "+small+" reached under load: nothing unchecked, and it recovers", seen, err)
	return nil
}

func (r *rig) exhausted(ctx context.Context) (string, error) {
	if err := r.container.steady(ctx); err != nil {
		return "", err
	}
	padding := strings.Repeat("x", bodySize)
	good := request{method: "POST", path: "/upload", body: `{"fine": true, "padding": "` + padding + `"}`, headers: []string{"Content-Type: application/json"}}
	bad := request{method: "POST", path: "/upload", body: `{"fine": false, "padding": "` + padding + `"}`, headers: []string{"Content-Type: application/json", mustNotArrive + ": it is not fine"}, refused: true}
	begin := time.Now()
	t := r.load(ctx, pressure, []request{good, bad})
	defer t.stopped()
	reached := process.Within(readyTimeout, func() error { return r.container.outOfMemory(ctx) })
	o := t.stop()
	arrived, unchecked := r.upstream.verdict()
	if err := errors.Join(reached, unchecked, o.verdict()); err != nil {
		return "", fmt.Errorf("%v: %w", o, err)
	}
	pressed := time.Since(begin)

	begin = time.Now()
	small := request{method: "POST", path: "/upload", body: `{"fine": true}`, headers: []string{"Content-Type: application/json"}}
	err := process.Within(readyTimeout, func() error { return expect(ctx, r, 200, "", &small) })
	if err != nil {
		return "", fmt.Errorf("it does not recover: %w", err)
	}
	took := time.Since(begin)
	wrong := request{method: "POST", path: "/upload", body: `{"fine": false}`, headers: bad.headers}
	if err := expect(ctx, r, 400, "BODY_INVALID", &wrong); err != nil {
		return "", err
	}
	if _, err := r.upstream.verdict(); err != nil {
		return "", err
	}
	return fmt.Sprintf("%v in %.1f s, %d reached the upstream; full service %d ms later", o, pressed.Seconds(), arrived, took.Milliseconds()), nil
}

// outOfMemory is nil when a program of the container was ended because the limit was reached.
func (c *container) outOfMemory(ctx context.Context) error {
	logs, err := c.logs(ctx)
	if err != nil {
		return err
	}
	killed := 0
	for _, l := range supervisorLines(logs) {
		if strings.Contains(l.Message, "terminated by SIGKILL; not expected") {
			killed++
		}
	}
	status, err := c.inspect(ctx, "{{.State.Status}}")
	if err != nil || status != "running" {
		return fmt.Errorf("the container is %q, error %w", status, err)
	}
	if killed == 0 {
		return errors.New("no program was ended for want of memory")
	}
	return nil
}
