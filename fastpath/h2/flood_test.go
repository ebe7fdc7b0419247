package h2

import (
	"bytes"
	"context"
	"math/rand/v2"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
)

// The attacks of section 10.5 and what bounds each of them. All but the last column's tests check that another connection is served.
//
//	attack                         bound                                              test
//	rapid reset                    useless streams a second                           TestAttacksEndTheirConnection, TestResetsAfterAnswers, TestMixedResets,
//	                                                                                  TestAllStreamsAreGivenUp, TestLateResetsAreCounted
//	reset by a broken rule         the same                                           TestAttacksEndTheirConnection
//	CONTINUATION, endless          frames, and bytes of a block                       TestAttacksEndTheirConnection, TestHeldMemory
//	SETTINGS, PING, PRIORITY, …    control frames a second                            TestAttacksEndTheirConnection
//	empty and tiny frames          control frames a second; what they carry           TestAttacksEndTheirConnection, TestHeldMemory
//	windows never opened           bytes that wait, of the connection                 TestWindowNeverOpened
//	windows opened by a byte       WINDOW_UPDATE frames a second                      TestAttacksEndTheirConnection
//	windows exceeded or overflown  the RFC                                            TestRules
//	HPACK bombs, huge headers      the size of the list when unpacked; the table      TestHeaderBombs, TestDynamicTableBound, TestMemoBounds
//	streams never ended            streams; finished ones are closed                  TestStreamLimit, TestNeverClosesItsSide, TestHeldMemory
//	messages never finished        bytes of them, of the connection                   TestUnfinishedMessages
//	slow reader                    bytes that wait; time of a write                   TestNeverReads, TestOutputBoundFromElsewhere
//	slow writer, silence           time of the handshake; PINGs                       TestNoHTTP2, TestIdlePing, TestByteAtATime
//	half-open connections          PINGs                                              TestIdlePing, TestClientSilentServer
//	connections                    their number                                       TestConnectionLimit
//	random bytes                   all of these                                       TestRandomFrames, TestNoHTTP2, FuzzFrames, FuzzHeaders

// heap is how many bytes the live and the dead objects take.
func heap() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64())
}

// besides does what a test wants, and checks that it takes no more memory than the bound, in bytes and what is garbage included, and that calls on another
// connection are answered in time meanwhile.
func besides(t testing.TB, cc *grpc.ClientConn, bound int64, act func()) {
	t.Helper()
	honest(t, cc)
	runtime.GC()
	before, peak := heap(), int64(0)
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			peak = max(peak, heap()-before)
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	watching.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond) // Leaves the processor to the attack.
		defer tick.Stop()
		for calls := 0; ; calls++ {
			ctx, cancel := context.WithTimeout(context.Background(), patience/3)
			err := echoOnce(ctx, cc, []byte("beside"))
			cancel()
			if err != nil {
				t.Errorf("call %d of the other connection: %v", calls, err)
				return
			}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	act()
	close(done)
	watching.Wait()
	if peak > bound {
		t.Errorf("%d bytes more than before, want at most %d", peak, bound)
	}
}

// TestHeldMemory: what one connection can make the server keep.
func TestHeldMemory(t *testing.T) {
	noLeaks(t)
	begun := []byte{0, 0, 0x10, 0, 0, 'm'} // A message of a MiB.
	for _, tc := range []struct {
		name  string
		bound int64 // with the garbage of both sides
		send  func(p *peer, id uint32) (more bool)
	}{
		{"streams that say nothing", 12 << 20, func(p *peer, id uint32) bool {
			p.open(id, "/test/Silent")
			return id < 2*4095
		}},
		{"streams that have said a byte of a long message", 20 << 20, func(p *peer, id uint32) bool {
			p.open(id, "/test/Silent")
			p.data(id, false, begun)
			return id < 2*4095
		}},
		{"streams with headers as large as allowed", 20 << 20, func(p *peer, id uint32) bool {
			p.open(id, "/test/Silent", "x", strings.Repeat("h", 15_000)) // Huffman coding makes a frame of it.
			return id < 2*1000
		}},
		{"DATA of a byte", 12 << 20, func(p *peer, id uint32) bool {
			if id == 1 {
				p.open(1, "/test/Silent")
				p.data(1, false, begun[:5])
			}
			p.data(1, false, []byte{'m'})
			return id < 2*10_000
		}},
		{"requests that nobody takes", 12 << 20, func(p *peer, id uint32) bool {
			p.open(id, "/nobody")
			return id < 2*5000
		}},
		{"an unfinished header block as large as allowed", 8 << 20, func(p *peer, id uint32) bool {
			flags, typ := byte(0), byte(frameContinuation)
			if id == 1 {
				typ = frameHeaders
			}
			p.write(rawFrame(typ, flags, 1, bytes.Repeat([]byte{0x82}, 16_000)))
			return id < 7
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr, srv := startServer(t, Config{}, silent{})
			other := dial(t, addr)
			honest(t, other)
			attacker := newPeer(t, addr)
			besides(t, other, tc.bound, func() {
				read := make(chan struct{})
				go func() { // What is answered is read.
					defer close(read)
					for {
						if _, err := attacker.fr.ReadFrame(); err != nil {
							return
						}
					}
				}()
				id := uint32(1)
				for tc.send(attacker, id) {
					id += 2
				}
				eventually(t, "all was read", func() bool { return srv.idleFor(attacker.nc.LocalAddr().String(), 20*time.Millisecond) })
				attacker.nc.Close()
				<-read
			})
			eventually(t, "the connection is forgotten", func() bool { return len(srv.connections()) == 1 })
			other.Close()
		})
	}
}

// idleFor reports whether the connection from there has had no frame for so long; the sums of its streams are right then.
func (s *Server) idleFor(remote string, d time.Duration) bool {
	for _, c := range s.connections() {
		if c.RemoteAddr().String() == remote {
			return s.now()-c.lastFrame.Load() > int64(d)
		}
	}
	return true
}

// TestMixedResets: streams that were answered don't buy any number of useless ones, and clients that go away are no attack as long as they are the smaller part.
func TestMixedResets(t *testing.T) {
	for _, tc := range []struct {
		name            string
		useful, useless int
		ends            bool
	}{
		{"mostly answered", 3, 1, false},
		{"mostly reset", 1, 3, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr, _ := startServer(t, Config{}, silent{})
			other := dial(t, addr)
			p := newPeer(t, addr)
			besides(t, other, 12<<20, func() {
				ended := make(chan http2.ErrCode, 1)
				go func() {
					code, _ := p.goAway()
					ended <- code
				}()
				id := uint32(1)
				add := func(b []byte, path string) []byte {
					b = append(append(b, rawFrame(frameHeaders, flagEndHeaders, id, p.call(path))...), appendRSTStream(nil, id, Cancel)...)
					id += 2
					return b
				}
				var err error
				for i := 0; i < 10_000 && err == nil; i += tc.useful + tc.useless {
					var b []byte
					for range tc.useful {
						b = add(b, "/nobody") // Answered at once.
					}
					for range tc.useless {
						b = add(b, "/test/Silent")
					}
					_, err = p.nc.Write(b)
				}
				if !tc.ends {
					if err != nil {
						t.Errorf("the connection ended: %v", err)
					}
					p.nc.Close()
				}
				if code := <-ended; tc.ends != (code == http2.ErrCodeEnhanceYourCalm) {
					t.Errorf("GOAWAY with %v", code)
				}
			})
		})
	}
}

// TestRandomFrames: frames of random types, flags, streams and contents, and random bytes, end at most their own connection.
func TestRandomFrames(t *testing.T) {
	noLeaks(t)
	planned := func(v any, stack []byte) {
		if v != "planned" {
			t.Errorf("panic: %v\n%s", v, stack)
		}
	}
	addr, srv := startServer(t, Config{HandshakeTimeout: time.Second, Panicked: planned}, fuzzHandler{})
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		p := newPeer(t, addr)
		var b []byte
		for range 50 {
			id := uint32(random.IntN(8))
			payload := make([]byte, random.IntN(40))
			for i := range payload {
				payload[i] = byte(random.Uint32())
			}
			switch random.IntN(4) {
			case 0:
				b = append(b, rawFrame(frameHeaders, flagEndHeaders|byte(random.IntN(2)), id|1, fuzzBlock([]string{"/e", "/f", "/m", "/p", "/d"}[random.IntN(5)]))...)
			case 1:
				b = append(b, rawFrame(frameData, byte(random.IntN(2)), id|1, message(string(payload)))...)
			case 2:
				b = append(b, rawFrame(byte(random.IntN(11)), byte(random.Uint32()), id, payload)...)
			default:
				b = append(b, payload[:len(payload)/8]...)
			}
		}
		_, _ = p.nc.Write(b) // It fails when the server has had enough.
		p.nc.Close()
	}
	eventually(t, "all connections are forgotten", func() bool { return len(srv.connections()) == 0 })
	p := newPeer(t, addr)
	p.open(1, "/e")
	p.data(1, true, message("still here"))
	if o := p.outcome(1); o.fields["grpc-status"] != "0" || string(o.data) != string(message("still here")) {
		t.Errorf("outcome %v", o)
	}
}
