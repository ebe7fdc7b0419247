package stage

import (
	"fmt"
	"io"
	"net"
	"sync"
)

// Wire stands between Envoy and the kernel, for as long as it lets bytes through.
type Wire struct {
	Address string

	target   string
	listener net.Listener
	group    sync.WaitGroup

	mu     sync.Mutex
	links  map[*link]bool
	refuse bool
	closed bool
}

// link is a connection through the wire.
type link struct {
	envoy, kernel net.Conn
	deaf          chan struct{} // closed when nothing comes through any more
	once          sync.Once
}

// StartWire listens on a free port of 127.0.0.1.
func StartWire(target string) (*Wire, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the wire: %w", err)
	}
	w := &Wire{Address: l.Addr().String(), target: target, listener: l, links: make(map[*link]bool)}
	w.group.Go(w.accept)
	return w, nil
}

func (w *Wire) accept() {
	for {
		envoy, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		refuse := w.refuse
		w.mu.Unlock()
		var kernel net.Conn
		if !refuse {
			kernel, err = net.Dial("tcp", w.target)
		}
		if refuse || err != nil {
			reset(envoy)
			continue
		}
		k := &link{envoy: envoy, kernel: kernel, deaf: make(chan struct{})}
		w.mu.Lock()
		w.links[k] = true
		closed := w.closed
		w.mu.Unlock()
		if closed {
			k.reset()
		}
		w.group.Go(func() { k.carry(envoy, kernel) })
		w.group.Go(func() {
			k.carry(kernel, envoy)
			w.mu.Lock()
			delete(w.links, k)
			w.mu.Unlock()
		})
	}
}

// carry copies until one side ends, and then ends both; a deaf link ends when it is reset.
func (k *link) carry(from, to net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-k.deaf:
			_, _ = io.Copy(io.Discard, from) // The sender hears nothing of it.
			return
		default:
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_ = from.Close()
	_ = to.Close()
}

func (k *link) reset() {
	reset(k.envoy)
	reset(k.kernel)
}

// reset ends a connection by RST.
func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

func (w *Wire) each(f func(*link)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k := range w.links {
		f(k)
	}
}

// Reset resets all connections.
func (w *Wire) Reset() { w.each((*link).reset) }

// Deafen lets nothing more through on the connections that are there, and ends none: as when the other machine is gone.
func (w *Wire) Deafen() { w.each(func(k *link) { k.once.Do(func() { close(k.deaf) }) }) }

// Refuse refuses new connections, and resets those that are there.
func (w *Wire) Refuse(refuse bool) {
	w.mu.Lock()
	w.refuse = refuse
	w.mu.Unlock()
	if refuse {
		w.Reset()
	}
}

// Close ends it.
func (w *Wire) Close() {
	_ = w.listener.Close()
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.Reset()
	w.group.Wait()
}
