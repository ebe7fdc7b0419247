package worker

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// TestSharedSocketFolder: a folder in which other users can remove or replace the socket is an error unless the
// configuration allows it, also where it is a folder on the way.
func TestSharedSocketFolder(t *testing.T) {
	folder := socketFolder(t)
	below := filepath.Join(folder, "w")
	if err := os.Mkdir(below, 0o700); err != nil {
		t.Fatal(err)
	}
	for mode, open := range map[os.FileMode]bool{0o700: false, 0o755: false, 0o777 | os.ModeSticky: false, 0o777: true, 0o777 | os.ModeSetgid: true} {
		if err := os.Chmod(folder, mode); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{filepath.Join(folder, "w.sock"), filepath.Join(below, "w.sock")} {
			for _, shared := range []bool{false, true} {
				s, err := listenSocket(path, shared)
				switch {
				case open && !shared:
					if err == nil || !strings.Contains(err.Error(), "got mode 0777") || !strings.Contains(err.Error(), "shared_socket_folder: true") {
						t.Errorf("%v %s: %v", mode, path, err)
					}
				case err != nil || (s.shared != nil) != open:
					t.Errorf("%v %s, shared %t: %v", mode, path, shared, err)
				}
				if err == nil {
					s.Close()
				}
			}
		}
	}
}

// TestConnectionsOfOtherUsers: they are closed, counted, and logged once in an interval; those of the own user are served.
func TestConnectionsOfOtherUsers(t *testing.T) {
	var log output
	var strangers atomic.Int64
	strangers.Store(20)
	r := startWorker(t, func(s *setup) {
		s.opts.Log = slog.New(slog.NewTextHandler(&log, nil))
		s.opts.checkPeer = func(net.Conn) error {
			if strangers.Add(-1) >= 0 {
				return errors.New("check peer: it runs as user 4711, want 1000 or root")
			}
			return nil
		}
	})
	for strangers.Load() > 0 {
		c, err := net.Dial("unix", r.path)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("a connection of another user gets %d bytes, %v", n, err)
		}
		c.Close()
	}
	if got := r.metrics(t); !strings.Contains(got, "policy_worker_connections_refused_total 20\n") {
		t.Error(got)
	}
	if n := strings.Count(log.String(), "connection of another user refused"); n != 1 || !strings.Contains(log.String(), "user 4711") {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}
