// Package tap is a proxy between Envoy and an ext_proc server: it reads what they say, holds it against the grammar, and falsifies the server's answers if it is told to.
package tap

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/policy-engine/policy-engine/test/grammar"
)

// maxKept is how many conversations that broke the grammar are kept.
const maxKept = 100

// Tap forwards connections to the server. Bytes go through as they are, unless answers are falsified.
type Tap struct {
	// Address is where Envoy connects to.
	Address string

	target   string
	timeout  time.Duration
	falsify  Falsify
	listener net.Listener
	over     chan struct{}
	wait     sync.WaitGroup

	mu         sync.Mutex
	conns      map[*conversation]bool
	streams    int
	messages   int
	broken     []string
	more       int
	unreadable []string
}

// Answer is an answer of the server, on its way to Envoy.
type Answer struct {
	// Route is the stream's, and Index counts its answers from 0.
	Route   string
	Index   int
	Message *extprocv3.ProcessingResponse
}

// Change is what comes of an answer.
type Change struct {
	// Answers take the answer's place.
	Answers []*extprocv3.ProcessingResponse
	// Close ends the stream with OK then. Mute ends it for the server, and Envoy hears nothing more.
	Close, Mute bool
}

// Falsify may change an answer; false leaves it as it is. It is called for one answer of a connection at a time. What Envoy is not given of an answer stays
// out of the connection's window (RFC 9113 section 6.9), so it is for answers that are small.
type Falsify func(Answer) (Change, bool)

// Options are what a tap may know.
type Options struct {
	// Timeout is Envoy's message_timeout; 0 if it is not known.
	Timeout time.Duration
	Falsify Falsify
}

// Start listens on a free port of 127.0.0.1. The target need not exist yet.
func Start(target string, o Options) (*Tap, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for Envoy: %w", err)
	}
	t := &Tap{Address: l.Addr().String(), target: target, timeout: o.Timeout, falsify: o.Falsify, listener: l, over: make(chan struct{}), conns: map[*conversation]bool{}}
	t.wait.Go(t.accept)
	return t, nil
}

func (t *Tap) accept() {
	for {
		envoy, err := t.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.DialTimeout("tcp", t.target, 5*time.Second)
		if err != nil {
			_ = envoy.Close() // As a server that is gone.
			continue
		}
		c := newConversation(t, envoy, server)
		t.mu.Lock()
		t.conns[c] = true
		t.mu.Unlock()
		select {
		case <-t.over:
			c.close()
		default:
		}
		t.wait.Go(func() {
			c.run()
			t.mu.Lock()
			delete(t.conns, c)
			t.mu.Unlock()
		})
	}
}

// Close ends all connections and waits for their ends.
func (t *Tap) Close() {
	close(t.over)
	_ = t.listener.Close()
	t.mu.Lock()
	for c := range t.conns {
		c.close()
	}
	t.mu.Unlock()
	t.wait.Wait()
}

// SetTimeout tells Envoy's message_timeout, for streams that begin from now on.
func (t *Tap) SetTimeout(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timeout = d
}

// Counts are how many streams there were, and how many messages on them.
func (t *Tap) Counts() (streams, messages int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.streams, t.messages
}

// Problems are the conversations that broke the grammar, and connections that could not be read, which are as bad. Streams that have not ended count too.
func (t *Tap) Problems() []string {
	t.mu.Lock()
	conns := make([]*conversation, 0, len(t.conns))
	for c := range t.conns {
		conns = append(conns, c)
	}
	t.mu.Unlock()
	for _, c := range conns {
		c.sweep()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	all := append(append([]string(nil), t.broken...), t.unreadable...)
	if t.more > 0 {
		all = append(all, fmt.Sprintf("and %d conversations more", t.more))
	}
	return all
}

// began counts a stream and makes its follower.
func (t *Tap) began(route string) *grammar.Stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streams++
	return &grammar.Stream{Route: route, Timeout: t.timeout}
}

func (t *Tap) counted(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.messages += n
}

// ended notes what was wrong with a stream.
func (t *Tap) ended(s *grammar.Stream) {
	if len(s.Violations()) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.broken) == maxKept {
		t.more++
		return
	}
	t.broken = append(t.broken, strings.Join(s.Violations(), "; ")+"\n"+s.Transcript())
}

func (t *Tap) unread(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.unreadable) < maxKept {
		t.unreadable = append(t.unreadable, "a connection can't be read: "+err.Error())
	}
}
