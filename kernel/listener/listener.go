// Package listener opens what Envoy connects to: a TCP address or a Unix socket, and TLS.
package listener

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/policy-engine/policy-engine/config"
)

// socketMode lets the user and the group in: Envoy often is another user of the same group.
const socketMode = 0o660

// Open opens the configured address or Unix socket.
func Open(cfg config.Server) (net.Listener, error) {
	if cfg.SocketPath != "" {
		return listenUnix(cfg.SocketPath)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(cfg.Address, strconv.Itoa(cfg.Port)))
	if err != nil {
		return nil, fmt.Errorf("listen for Envoy: %w", err)
	}
	return l, nil
}

// listenUnix replaces a socket file only when nobody listens on it any more.
func listenUnix(path string) (net.Listener, error) {
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
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(fmt.Errorf("set mode of socket %q: %w", path, err), l.Close())
	}
	return l, nil
}
