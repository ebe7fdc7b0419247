package memory

import (
	"net"
	"testing"
)

func tcp(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }

// greedy takes as much as it gets.
func greedy(a *Account) int64 {
	for n := unit; a.Grow(n); n += unit {
	}
	return a.held
}

// TestShares: however many greedy connections and peers there are, the next one finds room.
func TestShares(t *testing.T) {
	const max = 256 << 20
	b := New(max)
	var accounts []*Account
	for i := range 200 {
		a := b.Open(tcp("192.0.2.1"))
		accounts = append(accounts, a)
		if held := greedy(a); i == 0 && (held < max*3/8-unit || held > max*3/8) {
			t.Errorf("the first connection holds %d", held)
		}
	}
	if left := max - b.Used(); left < max/4+max*3/20-unit {
		t.Errorf("a greedy peer leaves %d", left)
	}
	envoy := b.Open(tcp("192.0.2.2"))
	if held := greedy(envoy); held < max/20 {
		t.Errorf("another peer gets %d", held)
	}
	accounts = append(accounts, envoy)
	for i := range 50 {
		a := b.Open(tcp(net.IPv4(198, 51, 100, byte(i)).String()))
		accounts = append(accounts, a)
		if held := greedy(a); held < guaranteed {
			t.Errorf("peer %d gets %d", i, held)
		}
	}
	if b.Used() > max {
		t.Errorf("%d are held", b.Used())
	}
	for _, a := range accounts {
		a.Close()
		a.Close()
	}
	if b.Used() != 0 || len(b.peers) != 0 {
		t.Errorf("%d bytes and %d peers are left", b.Used(), len(b.peers))
	}
}

// TestSet: what is held is charged whether it may be or not, and given back with slack.
func TestSet(t *testing.T) {
	b := New(4 << 20)
	a := b.Open(tcp("192.0.2.1"))
	if !a.Set(1) || b.Used() != unit {
		t.Errorf("1 byte is %d", b.Used())
	}
	if a.Set(3<<20) || b.Used() != 3<<20 {
		t.Errorf("more than the share: %d", b.Used())
	}
	if a.Set(3<<20) || a.Set(3<<20-1) || b.Used() != 3<<20 {
		t.Errorf("still more than the share: %d", b.Used())
	}
	if !a.Set(100) || b.Used() != unit {
		t.Errorf("much less: %d", b.Used())
	}
	if !a.Set(slack) || !a.Set(unit) || b.Used() != slack {
		t.Errorf("a little less: %d", b.Used())
	}
	var none *Account
	if !none.Grow(1<<40) || !none.Set(1<<40) {
		t.Error("no budget bounds")
	}
	none.Close()
	if (*Budget)(nil).Open(nil) != nil {
		t.Error("no budget has accounts")
	}
}

func TestPeer(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1", "[::ffff:192.0.2.1]:80": "192.0.2.1", "[2001:db8::1]:80": "2001:db8::/64", "[2001:db8::ffff:1]:80": "2001:db8::/64", "[2001:db8:0:1::]:80": "2001:db8:0:1::/64",
		"[::1]:80": "::1",
	} {
		at, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := Peer(at); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
	if got := Peer(&net.UnixAddr{Name: "@", Net: "unix"}); got != "unix" {
		t.Error(got)
	}
	if got := Peer(nil); got != "" {
		t.Error(got)
	}
}
