package rig

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// reloadTimeout bounds one reload; the kernel gives up a worker that does not take a configuration long before.
const reloadTimeout = time.Minute

// Server is the address of the kernel's listener for Envoy.
func (r *Rig) Server() string { return net.JoinHostPort(loopback, strconv.Itoa(r.ports.server)) }

// RouteName is the name of the route, from 0 on.
func RouteName(route int) string { return fmt.Sprintf("route-%06d", route) }

// Prepare writes the configurations 1 to n, each of which changes every route, so that writing them takes nothing from a measurement.
func (r *Rig) Prepare(n int) error {
	spec := r.spec
	for spec.version = 1; spec.version <= n; spec.version++ {
		if _, err := writeConfig(r.dir, prepared(spec.version), spec.kernelConfig(r.ports.server, r.ports.admin, r.dir)); err != nil {
			return err
		}
	}
	return nil
}

func prepared(version int) string { return fmt.Sprintf("kernel-%d.yaml", version) }

// Reload puts a prepared configuration in the place of the kernel's, asks for the reload, and returns when it is in use.
func (r *Rig) Reload(version int) error {
	return r.reload(prepared(version))
}

// SetSampling changes how many requests are traced, by a reload. The rig has tracing.
func (r *Rig) SetSampling(rate float64) error {
	const name = "kernel-sampling.yaml"
	if err := r.writeKernelConfig(name, rate); err != nil {
		return err
	}
	return r.reload(name)
}

// reload puts a file in the place of the kernel's configuration.
func (r *Rig) reload(name string) error {
	if err := os.Rename(filepath.Join(r.dir, name), filepath.Join(r.dir, kernelFile)); err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	client := &http.Client{Timeout: reloadTimeout}
	defer client.CloseIdleConnections()
	resp, err := client.Post("http://"+r.Admin()+"/config/reload", "", nil)
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 2000))
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("reload: status %d: %s, %w", resp.StatusCode, text, err)
	}
	return nil
}
