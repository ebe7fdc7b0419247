package main

import (
	"errors"
	"io"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/policy-engine/policy-engine/test/stage"
)

// Ways to spoil a file, in place as careless editors do it.

func empty(path string) error { return os.Truncate(path, 0) }

func remove(path string) error { return os.Remove(path) }

func half(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, info.Size()/2)
}

// badKeys spoils the file of API keys: the keys of the last good one stay.
func (x *exercise) badKeys(spoil func(path string) error) error {
	x.inject(false)
	if err := spoil(x.KeyFile()); err != nil {
		return err
	}
	x.hold(3 * time.Second)
	return x.heal(x.WriteKeys)
}

// badIssuer has the server of key sets answer something else: the keys of the last good one stay.
func (x *exercise) badIssuer(answer http.HandlerFunc) error {
	x.inject(false)
	x.Issuer.Answer(answer)
	x.hold(3 * time.Second)
	return x.heal(func() error { x.Issuer.Answer(nil); return nil })
}

// withoutKeySets has a worker start while there are no key sets to be had. The other one has them. Where the server is down, it can't decide on tokens, and refuses them, until it is
// asked again: two faults at a time, for which there is no promise but that nothing passes.
func (x *exercise) withoutKeySets(answer http.HandlerFunc, refuses bool) error {
	x.inject(refuses)
	x.Issuer.Answer(answer)
	err := x.restart(syscall.SIGKILL, stage.Worker1)
	x.hold(3 * time.Second)
	return errors.Join(err, x.heal(func() error { x.Issuer.Answer(nil); return nil }))
}

func unavailable(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "down", http.StatusServiceUnavailable)
}

func nonsense(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"keys": [{"kty": `) }

func slow(w http.ResponseWriter, r *http.Request) {
	select {
	case <-time.After(10 * time.Second):
	case <-r.Context().Done():
	}
}

// badStart has the kernel start with a configuration that it can't use: until there is a good one, nobody is served, and nothing passes.
func (x *exercise) badStart(spoil func(path string) error) error {
	x.inject(true)
	if err := spoil(x.KernelFile(0)); err != nil {
		return err
	}
	if err := x.Signal(stage.Kernel, syscall.SIGKILL); err != nil {
		return err
	}
	x.hold(3 * time.Second)
	return x.heal(func() error { return x.WriteKernel(0, "") })
}
