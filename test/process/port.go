package process

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// Ports come from below the range that Linux takes for outgoing connections (net.ipv4.ip_local_port_range begins at 32768): one that is free stays
// free until the program that it is meant for listens on it.
const (
	firstPort = 20000
	lastPort  = 32000
)

var ports struct {
	sync.Mutex
	used map[int]bool
}

// FreePort returns a port of 127.0.0.1 on which nobody listens, another one each time.
func FreePort() (int, error) {
	ports.Lock()
	defer ports.Unlock()
	if ports.used == nil {
		ports.used = make(map[int]bool)
	}
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if ports.used[port] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		_ = l.Close()
		ports.used[port] = true
		return port, nil
	}
	return 0, errors.New("there is no free port")
}
