package workers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"github.com/policy-engine/policy-engine/fastpath/socket"
)

// errNoSocket says that there is nothing where the socket should be.
var errNoSocket = errors.New("there is no such file (is the worker running?)")

// checkSocket refuses what is not a socket of our own user with mode 0600: whoever else could have made it, or could connect to it, could decide on requests.
func checkSocket(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("check socket %q: %w", path, errNoSocket)
		}
		return fmt.Errorf("check socket %q: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("check socket %q: it is no socket but %s", path, info.Mode())
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		return fmt.Errorf("check socket %q: mode %04o, want 0600", path, mode)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("check socket %q: its owner can't be told on this system", path)
	}
	if uid := os.Geteuid(); int(st.Uid) != uid {
		return fmt.Errorf("check socket %q: its owner is user %d, want %d", path, st.Uid, uid)
	}
	return nil
}

// dialSocket connects to a socket that passes checkSocket, and to a process of our own user or of root behind it: the file may have
// been replaced between the check and the connect.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	if err := checkSocket(path); err != nil {
		return nil, err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := socket.CheckPeer(c); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to socket %q: %w", path, err)
	}
	return c, nil
}
