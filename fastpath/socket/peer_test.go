package socket

import (
	"net"
	"path/filepath"
	"testing"
)

func TestPeerOfTheSameUser(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for name, c := range map[string]net.Conn{"client": client, "server": server} {
		if err := CheckPeer(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPeersOfOtherUsers(t *testing.T) {
	for _, tt := range []struct {
		uid  uint32
		own  int
		want bool
	}{{1000, 1000, true}, {0, 1000, true}, {0, 0, true}, {1000, 0, false}, {1001, 1000, false}, {65534, 1000, false}, {1<<32 - 1, -1, false}} {
		if err := checkUser(tt.uid, tt.own); (err == nil) != tt.want {
			t.Errorf("user %d at a process of user %d: %v", tt.uid, tt.own, err)
		}
	}
}

func TestOnlyUnixSocketsHavePeers(t *testing.T) {
	c, other := net.Pipe()
	defer c.Close()
	defer other.Close()
	if CheckPeer(c) == nil {
		t.Error("a pipe has a peer with a user")
	}
}
