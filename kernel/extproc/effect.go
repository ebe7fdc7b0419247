package extproc

import (
	"google.golang.org/grpc/codes"

	"github.com/policy-engine/policy-engine/kernel/route"
)

// Instant is a reading of a monotonic clock, in nanoseconds since an arbitrary start.
type Instant int64

// Settings are shared by all machines of a kernel. They must not change; what a reload may change is in the tables of Routes.
type Settings struct {
	Routes *route.Store
	// Bodies bounds what bodies take in all streams together.
	Bodies *Budget
	// Observer may be nil.
	Observer Observer
	// Tracer is nil if nothing is traced.
	Tracer Tracer
}

// Kind is what the driver is to do.
type Kind uint8

// The kinds of effects.
const (
	// KindWait: nothing until the next event.
	KindWait Kind = iota
	// KindCall: run Call on Worker, and deliver the outcome with Complete.
	KindCall
	// KindAnswer: send Answer; the stream goes on.
	KindAnswer
	// KindFinish: send Answer, then close the stream with OK.
	KindFinish
	// KindFail: close the stream with Code, which is never OK, and Message.
	KindFail
)

func (k Kind) String() string {
	switch k {
	case KindWait:
		return "wait"
	case KindCall:
		return "call"
	case KindAnswer:
		return "answer"
	case KindFinish:
		return "finish"
	default:
		return "fail"
	}
}

// Effect is what an event led to.
type Effect struct {
	Kind Kind
	// More: the answer is not all; what Machine.Next gives follows it at once. Only KindAnswer has it.
	More bool
	// Call belongs to the machine; its Message is filled, Done is the driver's to set. Its bytes are valid until Complete.
	Call   *route.Call
	Worker route.Evaluator
	// Answer and then Tail are an encoded ProcessingResponse; both are valid until the next method call on the machine. Tail is the body in it, if it gives one back: its bytes are
	// those of a message that was lent, or the machine's, and the driver copies them into what it sends.
	Answer  []byte
	Tail    []byte
	Code    codes.Code
	Message string
}
