package extproc

import (
	"fmt"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// What of an exchange is otherwise in full duplex: the mode is there from the start, all that Envoy's configuration says is sent, and answers come when they like.

const fullDuplex = filterv3.ProcessingMode_FULL_DUPLEX_STREAMED

// drawDuplex draws which directions are in full duplex, and returns the words that say so.
func (x *exchange) drawDuplex() {
	switch rapid.IntRange(0, 7).Draw(x.t, "duplex") {
	case 0:
		x.duplex = "request_duplex"
		x.ways[0].mode = fullDuplex
	case 1:
		x.duplex = "response_duplex"
		x.ways[1].mode = fullDuplex
	case 2, 3, 4:
		x.duplex = "full_duplex"
		x.ways[0].mode, x.ways[1].mode = fullDuplex, fullDuplex
	default:
		return
	}
	x.ways[1].sendHeaders = true
	for i := range x.ways {
		x.ways[i].sendTrailers = x.ways[i].mode == fullDuplex
	}
}

// deliverDuplex sends a message, plays the workers, and takes the answers that it leads to.
func (x *exchange) deliverDuplex(msg []byte, what string) {
	e := x.m.Message(msg, x.w.now)
	clear(msg)
	phase := x.m.phase
	for e.Kind == KindCall {
		x.w.now += 1000
		r, err := x.work(e.Call, phase)
		e = x.m.Complete(e.Call, r, err, x.w.now)
	}
	for {
		switch e.Kind {
		case KindFail:
			x.over, x.denied = true, true
			return
		case KindWait:
			return
		}
		answer := new(extprocv3.ProcessingResponse)
		if err := proto.Unmarshal(whole(e), answer); err != nil {
			x.t.Fatal(err)
		}
		x.over = e.Kind == KindFinish
		if answer.GetImmediateResponse() != nil {
			if x.denied = true; !x.over || e.More {
				x.t.Fatal("an immediate response does not end the stream")
			}
			return
		}
		x.given(answer, what)
		if !e.More {
			return
		}
		e = x.m.Next(x.w.now)
	}
}

// given takes an answer, which must be one that Envoy takes now.
func (x *exchange) given(answer *extprocv3.ProcessingResponse, what string) {
	if answer.ModeOverride != nil {
		x.t.Fatalf("%s: mode_override in full duplex", what)
	}
	phase := phaseOfAnswer(answer)
	d := x.way(phase)
	legal := d.begun
	switch phase {
	case d.headers:
		legal = legal && !d.passed
		d.passed = true
	case d.trailers:
		legal = legal && d.passed && !d.gotEnd && d.ended
		d.gotEnd = true
	case d.body:
		common := answer.GetRequestBody().GetResponse()
		if common == nil {
			common = answer.GetResponseBody().GetResponse()
		}
		piece := common.GetBodyMutation().GetStreamedResponse()
		legal = legal && d.passed && !d.gotEnd && piece != nil && common.HeaderMutation == nil && len(piece.GetBody()) <= maxPiece
		d.got += string(piece.GetBody())
		if piece.GetEndOfStream() {
			legal = legal && d.ended && !d.withTrailers
			d.gotEnd = true
		}
	}
	if !legal {
		x.t.Fatalf("%s: %v is no legal answer now", what, answer)
	}
}

// duplexMore sends what follows of a direction in full duplex.
func (x *exchange) duplexMore(d *way, piece string, last bool) {
	eos := last && !d.withTrailers
	if piece != "" || eos {
		args := []string{fmt.Sprintf("body=%q", piece)}
		if eos {
			args = append(args, "end_of_stream")
			d.ended = true
		}
		x.deliverDuplex(x.message(d.body, args...), "a chunk")
		if eos && !x.over && rapid.IntRange(0, 3).Draw(x.t, "twice") == 0 {
			before := d.got
			if x.deliverDuplex(x.message(d.body, args...), "the last chunk, once more"); d.got != before || x.over {
				x.t.Fatal("the last chunk is taken twice")
			}
		}
	}
	if last && d.withTrailers && !x.over {
		d.ended = true
		x.deliverDuplex(x.message(d.trailers, "x-sum=1"), "trailers")
	}
}

// settleDuplex: a stream that ended with OK has given all back.
func (x *exchange) settleDuplex() {
	for i := range x.ways {
		if d := &x.ways[i]; d.mode == fullDuplex && !d.noBody && !d.gotEnd {
			x.t.Fatalf("the stream has ended before way %d was given back", i)
		}
	}
}
