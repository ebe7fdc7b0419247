package socket

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// CheckPeer returns an error unless the process at the other end of a Unix socket is of this process's user or of root. The
// system says who has connected, or listened (SO_PEERCRED, unix(7)): unlike the owner of the socket's file, that cannot
// be another one by the time of the connect.
func CheckPeer(c net.Conn) error {
	unixConn, ok := c.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("check peer: the connection is no Unix socket but %T", c)
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return fmt.Errorf("check peer: %w", err)
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return fmt.Errorf("check peer: %w", err)
	}
	if failed != nil {
		return fmt.Errorf("check peer: %w", failed)
	}
	return checkUser(peer.Uid, os.Geteuid())
}

func checkUser(uid uint32, own int) error {
	if uid != 0 && int(uid) != own {
		return fmt.Errorf("check peer: it runs as user %d, want %d or root", uid, own)
	}
	return nil
}
