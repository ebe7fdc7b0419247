package worker

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/policy-engine/policy-engine/fastpath/filemode"
	peer "github.com/policy-engine/policy-engine/fastpath/socket"
)

const (
	// maxSocketPath is what fits into sockaddr_un (unix(7)), without the NUL.
	maxSocketPath = 107
	// dialStale bounds the test whether somebody listens on a socket.
	dialStale = time.Second
)

// socket listens on a Unix socket with mode 0600.
type socket struct {
	*net.UnixListener
	path string
	made fs.FileInfo
	// shared is why other users can remove or replace the socket; nil if they cannot.
	shared error
	// check refuses the peer of a connection, and refused gets each refusal.
	check   func(net.Conn) error
	refused func(error)
}

// listenSocket makes the socket at path, and its folder if it is missing. A socket that is there is replaced only if
// nothing listens on it. A folder in which other users can remove or replace the socket is an error unless shared is true.
func listenSocket(path string, shared bool) (*socket, error) {
	s, err := makeSocket(path, shared)
	if err != nil {
		return nil, fmt.Errorf("listen on socket %q: %w", path, err)
	}
	return s, nil
}

func makeSocket(path string, shared bool) (*socket, error) {
	if path == "" {
		return nil, errors.New("the path is empty")
	}
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	open := filemode.CheckFolder(folder)
	if open != nil && !shared {
		return nil, fmt.Errorf("%w; give it to the worker's user and mend its mode with chmod, or set policy_worker.shared_socket_folder: true", open)
	}
	// Two workers that start at the same time must not both find the socket stale.
	unlock, err := lockFolder(folder)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := checkStale(path); err != nil {
		return nil, err
	}
	// The socket is made in a folder that nobody else can enter, and moved when its mode is right: at no moment can another user connect.
	private, err := os.MkdirTemp(folder, ".")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	hidden := filepath.Join(private, "s")
	if longest := max(len(hidden), len(path)); longest > maxSocketPath {
		return nil, fmt.Errorf("the path is too long: %d bytes; legal are %d", longest, maxSocketPath)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // Its name is another one soon.
	s := &socket{UnixListener: l, path: path, shared: open, check: peer.CheckPeer, refused: func(error) {}}
	if err := s.publish(hidden); err != nil {
		l.Close()
		return nil, err
	}
	return s, nil
}

// Accept implements net.Listener. Connections of processes of other users are closed at once.
func (s *socket) Accept() (net.Conn, error) {
	for {
		c, err := s.UnixListener.Accept()
		if err != nil {
			return nil, err
		}
		if err = s.check(c); err == nil {
			return c, nil
		}
		c.Close()
		s.refused(err)
	}
}

func (s *socket) publish(hidden string) (err error) {
	if err := os.Chmod(hidden, 0o600); err != nil {
		return err
	}
	if s.made, err = os.Lstat(hidden); err != nil {
		return err
	}
	return os.Rename(hidden, s.path)
}

// remove takes the socket's file away, unless it is another's by now.
func (s *socket) remove() error {
	unlock, err := lockFolder(filepath.Dir(s.path))
	if err != nil {
		return err
	}
	defer unlock()
	there, err := os.Lstat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !os.SameFile(there, s.made):
		return nil
	}
	return os.Remove(s.path)
}

// checkStale returns an error unless path is free, or a socket that nothing listens on.
func checkStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file that is not a socket")
	}
	conn, err := net.DialTimeout("unix", path, dialStale)
	switch {
	case err == nil:
		conn.Close()
		return errors.New("another process listens on it")
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return fmt.Errorf("tell whether another process listens on it: %w", err)
}

// lockFolder waits for the lock of a folder.
func lockFolder(folder string) (unlock func(), err error) {
	f, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock folder %q: %w", folder, err)
	}
	return func() { f.Close() }, nil
}
