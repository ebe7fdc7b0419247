package main

import (
	"syscall"
	"time"

	"github.com/policy-engine/policy-engine/test/stage"
)

// A fault is something that goes wrong.
type fault struct {
	name string
	// on are the stages where it is played; pair and single if there is none. brief are those where the short form plays it too.
	on, brief []string
	// root: it needs rights that only root has. Elsewhere it is not played, and the table says so.
	root bool
	// full bounds the time from the fault to full service, if it is not 0: it is asked for on a machine of whose processors the engine has its part.
	full time.Duration
	play func(x *exercise) error
}

// The faults after which the time to full service counts.
const (
	workerKilled  = "worker killed"
	workersKilled = "all workers killed"
)

// faults is the table.
var faults = append([]fault{
	{name: workerKilled, full: time.Second, brief: []string{pair, single}, play: func(x *exercise) error { return x.ends(syscall.SIGKILL, stage.Worker1) }},
	{name: "worker terminated", brief: []string{single}, play: func(x *exercise) error { return x.ends(syscall.SIGTERM, stage.Worker1) }},
	{name: workersKilled, full: time.Second, on: []string{pair}, play: func(x *exercise) error { return x.ends(syscall.SIGKILL, x.workers()...) }},
	{name: "worker hung", brief: []string{single}, play: func(x *exercise) error { return x.hangs(stage.Worker1) }},
	{name: "all workers hung", on: []string{pair}, play: func(x *exercise) error { return x.hangs(x.workers()...) }},
	{name: "policy panics", brief: []string{pair}, play: func(x *exercise) error { return x.troubles(stage.Troubles("panic", 5)) }},
	{name: "policy fails", play: func(x *exercise) error { return x.troubles(stage.Troubles("error", 5)) }},
	{name: "policy is slow", brief: []string{pair}, play: func(x *exercise) error { return x.troubles(stage.Troubles("700ms", 5)) }},
	{name: "worker in a crash loop", play: crashLoop},
	{name: "kernel killed", brief: []string{pair}, play: func(x *exercise) error { return x.ends(syscall.SIGKILL, stage.Kernel) }},
	{name: "kernel terminated", play: func(x *exercise) error { return x.ends(syscall.SIGTERM, stage.Kernel) }},
	{name: "kernel hung", play: func(x *exercise) error { return x.hangs(stage.Kernel) }},
	{name: "Envoy restarted", on: []string{single}, play: func(x *exercise) error {
		x.inject(true)
		x.KillEnvoy()
		x.hold(time.Second)
		return x.heal(x.StartEnvoy)
	}},

	{name: "socket removed", play: socketRemoved},
	{name: "socket of a wrong mode", play: func(x *exercise) error { return x.badSocket(chmod(0o666), chmod(0o600), "mode") }},
	{name: "socket of another owner", root: true, play: func(x *exercise) error { return x.badSocket(chown(12345), chown(0), "owner") }},
	{name: "garbage behind the socket", play: garbage},
	{name: "a folder in the socket's place", play: folder},

	{name: "API keys emptied", brief: []string{pair}, play: func(x *exercise) error { return x.badKeys(empty) }},
	{name: "API keys half-written", play: func(x *exercise) error { return x.badKeys(half) }},
	{name: "API keys removed", play: func(x *exercise) error { return x.badKeys(remove) }},
	{name: "key sets' server down", brief: []string{single}, play: func(x *exercise) error { return x.badIssuer(unavailable) }},
	{name: "key sets' server slow", play: func(x *exercise) error { return x.badIssuer(slow) }},
	{name: "worker killed, key sets' server slow", on: []string{pair}, play: func(x *exercise) error { return x.withoutKeySets(slow, false) }},
	{name: "worker killed, key sets' server down", on: []string{pair}, play: func(x *exercise) error { return x.withoutKeySets(unavailable, true) }},
	{name: "key sets are garbage", play: func(x *exercise) error { return x.badIssuer(nonsense) }},
	{name: "kernel started with half a configuration", play: func(x *exercise) error { return x.badStart(half) }},
	{name: "kernel started without a configuration", on: []string{single}, play: func(x *exercise) error { return x.badStart(remove) }},

	{name: "half a configuration", brief: []string{pair}, play: func(x *exercise) error { return x.badReload(half) }},
	{name: "an empty configuration", on: []string{pair}, play: func(x *exercise) error { return x.badReload(empty) }},
	{name: "a binary configuration", on: []string{pair}, play: func(x *exercise) error { return x.badReload(binary) }},
	{name: "the configuration removed", on: []string{single}, play: func(x *exercise) error { return x.badReload(remove) }},
	{name: "a configuration with an unknown policy", on: []string{pair}, play: func(x *exercise) error { return x.badReload(edit("policy: proof}", "policy: prof}")) }},
	{name: "a configuration with a wrong parameter", on: []string{single}, play: func(x *exercise) error { return x.badReload(edit("key_store: clients", "key_store: nobody")) }},
	{name: "a storm of reloads", brief: []string{single}, play: reloadStorm},
	{name: "a reload while a worker is away", play: reloadWhileWorkersEnd},

	{name: "logs can't be written", brief: []string{single}, play: fullDisk},
	{name: "nobody reads the logs", play: deafReader},
	{name: "kernel out of descriptors", brief: []string{pair}, play: kernelDescriptors},
	{name: "worker out of descriptors", play: workerDescriptors},
	{name: "worker out of memory", play: workerMemory},
	{name: "bodies that are too large", brief: []string{pair}, play: func(x *exercise) error {
		return x.troubles(stage.Body("64 KiB body", 64<<10, true, 2), stage.Body("1 MiB and more", 1<<20, false, 1))
	}},
	{name: "processors taken by others", play: starvation},

	{name: "connection to the kernel reset", on: []string{wired}, play: func(x *exercise) error {
		x.inject(true)
		x.Wire.Reset()
		return nil
	}},
	{name: "connection to the kernel half open", on: []string{wired}, play: func(x *exercise) error {
		x.inject(true)
		x.Wire.Deafen()
		return nil // Envoy has to find out.
	}},
	{name: "kernel not reachable", on: []string{wired}, play: func(x *exercise) error {
		x.inject(true)
		x.Wire.Refuse(true)
		x.hold(2 * time.Second)
		return x.heal(func() error { x.Wire.Refuse(false); return nil })
	}},

	{name: "kernel out of descriptors as Envoy connects", on: []string{wired}, play: connectWithoutDescriptors},

	{name: "one of two kernels terminated", on: []string{kernels}, play: func(x *exercise) error { return x.ends(syscall.SIGTERM, stage.Kernel) }},
	{name: "one of two kernels killed", on: []string{kernels}, play: func(x *exercise) error {
		x.inject(true) // What is under way on it ends with it: Envoy sends nothing again.
		return x.restart(syscall.SIGKILL, stage.Kernel)
	}},
	{name: "one of two kernels hung", on: []string{kernels}, play: oneKernelHangs},
	{name: "everything restarted, one after the other", on: []string{kernels}, play: rollingRestart},
}, append(hostileFaults, burstFaults...)...)
