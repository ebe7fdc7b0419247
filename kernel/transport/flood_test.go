package transport

import (
	"bytes"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/h2"
	"github.com/policy-engine/policy-engine/fastpath/memory"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// TestFloodsEndTheirConnection: a flood of frames ends its connection, the reason is reported, and the streams of others
// go on.
func TestFloodsEndTheirConnection(t *testing.T) {
	for reason, frames := range map[string]func(p *player, n uint32) error{
		h2.ReasonResets: func(p *player, n uint32) error {
			id := p.open(&call{fields: requestFields(processMethod)})
			return p.fr.WriteRSTStream(id, http2.ErrCodeCancel)
		},
		h2.ReasonSettings: func(p *player, _ uint32) error { return p.fr.WriteSettings() },
		h2.ReasonPings:    func(p *player, _ uint32) error { return p.fr.WritePing(false, [8]byte{}) },
		h2.ReasonControl: func(p *player, _ uint32) error {
			return p.fr.WritePriority(1, http2.PriorityParam{StreamDep: 3})
		},
		h2.ReasonHeaders: func(p *player, n uint32) error {
			if n == 0 {
				return p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
			}
			return p.fr.WriteContinuation(1, false, nil)
		},
	} {
		t.Run(reason, func(t *testing.T) {
			var mu sync.Mutex
			var reasons []string
			r := &rig{t: t, evaluator: evaluator{inline: true}}
			r.startWith(Options{
				Config: config.Server{Address: "127.0.0.1", MaxConcurrentStreams: 1000},
				Ended: func(reason string, _ net.Addr) {
					mu.Lock()
					defer mu.Unlock()
					reasons = append(reasons, reason)
				},
			})
			r.client = r.dial(grpc.WithTransportCredentials(insecure.NewCredentials()))
			bystander := r.stream(t.Context())
			bystander.send("answer")
			bystander.expect("answered")

			p := newPlayer(t, r.listener.Addr().String())
			defer p.nc.Close()
			var out bytes.Buffer
			p.fr = http2.NewFramer(&out, nil)
			p.fr.AllowIllegalWrites = true
			for n := range uint32(20_000) {
				if err := frames(p, n); err != nil {
					t.Fatal(err)
				}
			}
			over := make(chan struct{})
			go func() { // It reads what comes until the end.
				defer close(over)
				for buf := make([]byte, 64<<10); ; {
					if _, err := p.nc.Read(buf); err != nil {
						return
					}
				}
			}()
			_, _ = p.nc.Write(out.Bytes()) // The server ends the connection meanwhile.
			<-over
			eventually(t, "the reason is reported", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return slices.Equal(reasons, []string{reason})
			})
			bystander.send("finish")
			bystander.expect("finished")
			bystander.expectEnd(codes.OK)
			eventually(t, "all streams have ended", func() bool { return r.server.Streams() == 0 })
		})
	}
}

// TestLongMessagesLeaveRoom: however many long messages come at a time, streams with short ones are answered.
func TestLongMessagesLeaveRoom(t *testing.T) {
	r := &rig{t: t, evaluator: evaluator{calls: make(chan *route.Call, 2000)}}
	var refused sync.Map
	r.startWith(Options{
		Config: config.Server{Address: "127.0.0.1", MaxConcurrentStreams: 1000},
		Memory: memory.New(32 << 20), Refused: func() { refused.Store("refused", true) },
	})
	r.client = r.dial(grpc.WithTransportCredentials(insecure.NewCredentials()))
	const streams = 100 // 1 MiB each.
	long := "call" + strings.Repeat(" ", 1<<20-100)
	var all []*flow
	for range streams {
		f := r.stream(t.Context())
		go func() { _ = f.SendMsg(frameOf(long)) }()
		all = append(all, f)
	}
	ended := make(chan int)
	go func() {
		done := 0
		for _, f := range all {
			if f.RecvMsg(frameOf("")) == nil {
				done++
			}
		}
		ended <- done
	}()
	for done := false; !done; {
		short := r.stream(t.Context())
		short.send("answer")
		short.expect("answered")
		short.send("finish")
		short.expect("finished")
		short.expectEnd(codes.OK)
		select {
		case c := <-r.evaluator.calls:
			r.complete(c, &workerv1.Result{}, nil)
		case n := <-ended:
			if _, some := refused.Load("refused"); n == 0 || n < streams && !some {
				t.Errorf("%d of %d long messages were answered; refusals were counted: %t", n, streams, some)
			}
			done = true
		default:
		}
	}
	eventually(t, "nothing is held but the connection", func() bool { return r.server.Streams() == 0 && r.server.Held() < 1<<20 })
}
