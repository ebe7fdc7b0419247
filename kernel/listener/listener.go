// Package listener opens what Envoy connects to: a TCP address or a Unix socket, and TLS.
package listener

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/config"
)

// socketMode lets the user and the group in: Envoy often is another user of the same group.
const socketMode = 0o660

// guardedMode lets in the user alone.
const guardedMode = 0o600

// Open opens the configured address or Unix socket.
func Open(cfg config.Server) (net.Listener, error) {
	if cfg.SocketPath != "" {
		return listenUnix(cfg.SocketPath, socketMode)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(cfg.Address, strconv.Itoa(cfg.Port)))
	if err != nil {
		return nil, fmt.Errorf("listen for Envoy: %w", err)
	}
	return l, nil
}

// OpenGuarded opens a listener that is for the guarded pages alone: HOST:PORT, or the path of a Unix socket that only the user of the kernel can connect to.
func OpenGuarded(address string) (net.Listener, error) {
	if strings.HasPrefix(address, "/") {
		return listenUnix(address, guardedMode)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for the guarded pages: %w", err)
	}
	return l, nil
}

// listenUnix replaces a socket file only when nobody listens on it any more.
func listenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("listen on %q: there is a file that is no socket", path)
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("listen on %q: another process listens there", path)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("remove stale socket %q: %w", path, err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(fmt.Errorf("set mode of socket %q: %w", path, err), l.Close())
	}
	return l, nil
}
