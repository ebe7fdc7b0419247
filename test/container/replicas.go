package main

import (
	"context"
	"path/filepath"
	"strings"
)

// replicaProgram starts one more process of the first worker, as an operator would (supervisord.d).
const replicaProgram = `[program:policy-worker-1b]
command=/usr/local/bin/policy-worker-1 --config /etc/policy-engine/worker-config-1b.yaml
priority=100
autorestart=true
startsecs=1
startretries=10
stopwaitsecs=20
stdout_logfile=/var/log/policy-engine/policy-worker-1b.log
stdout_logfile_maxbytes=8MB
stdout_logfile_backups=1
stdout_events_enabled=true
redirect_stderr=true
`

const replicaKernel = `policy_kernel:
  server: {address: 127.0.0.1, port: "${PORT_KERNEL}"}
  admin: {address: 127.0.0.1, port: "${PORT_ADMIN}"}
  workers:
    - name: worker-1
      socket_paths: [/var/run/policy-engine/workers/worker-1.sock, /var/run/policy-engine/workers/worker-1b.sock]
  route_policies:
    - route_name: accounts
      request_flow:
        policy_chain:
          - {policy: jwtValidation, params: {issuer: demo, required_scopes: [accounts.read]}}
`

// replicas: a worker of two processes. The memory is divided among all processes, whoever configured them; and when one is killed, the other serves.
func (t *trial) replicas(ctx context.Context) error {
	files, err := t.demoFiles()
	if err != nil {
		return err
	}
	files["kernel-config.yaml"] = replicaKernel
	files["worker-config-1b.yaml"] = strings.Replace(files["worker-config-1.yaml"], "worker-1.sock", "worker-1b.sock", 1)
	files["supervisord.d/replica.conf"] = replicaProgram
	dir, flags, err := t.folder("replicas", files)
	if err != nil {
		return err
	}
	c, err := t.engine.start(ctx, t.restrictions, append(flags, "-e", "DEMO_ISSUER_DIR=/etc/policy-engine")...)
	if err == nil {
		err = c.ready(ctx)
	}
	if err == nil {
		err = c.steady(ctx)
	}
	if err != nil {
		return err
	}
	seen, err := c.limits(ctx, 3)
	t.suite.check("a program of supervisord.d has its part of the memory limit", seen, err)
	r, err := startRig(ctx, c, filepath.Join(dir, "kernel-config.yaml"), t.work)
	if err != nil {
		return err
	}
	defer r.stop()
	scoped, err := t.token(ctx, "--scope", "accounts.read")
	if err != nil {
		return err
	}
	bare, err := t.token(ctx)
	if err != nil {
		return err
	}
	accounts := requests(scoped, bare)[2:]
	for program, file := range map[string]string{"policy-worker-1": "worker-config-1.yaml", "policy-worker-1b": "worker-config-1b.yaml"} {
		seen, err := r.killed(ctx, program, file, accounts, true)
		t.suite.check(program+", one of two replicas, killed under load: nothing unchecked, nothing lost", seen, err)
	}
	return nil
}
