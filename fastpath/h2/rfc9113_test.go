package h2

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// The rules of RFC 9113, sections 3.4 to 8, that a receiver has to enforce, and the decoding errors of RFC 7541: each is a row of rules or clientRules, named by its section,
// except for those that have a test of their own:
//
//	section     rule                                                            test
//	3.4         what does not begin with the preface is no HTTP/2               TestNoHTTP2
//	4.2, 6.9.2  frames of the size and windows that we offered are taken        TestReceiveWindows, TestSplitAnywhere
//	5.1.2       streams past the limit are refused                              TestStreamLimit
//	6.5.2       SETTINGS_HEADER_TABLE_SIZE, SETTINGS_MAX_HEADER_LIST_SIZE       TestPeerSettings
//	6.5.2       SETTINGS_MAX_CONCURRENT_STREAMS of a server                     TestClientStreams
//	6.8         GOAWAY, both sides                                              TestDrain, TestClientAgainstBrokenServer
//	6.9         nothing is sent past a window, whichever way it changes         TestSendWindows, TestConnectionWindowShared
//	8.1         malformed answers never end a call with OK                      TestClientAgainstBrokenServer
//	8.1         content-length is the length of the DATA                        TestContentLength
//	8.1.1       a malformed request does not reach the receiver                 TestReceiverCalls, FuzzHeaders
//	10.5        floods and bombs                                                TestAttacksEndTheirConnection, TestHeaderBombs
//
// Where the RFC wants an error of the stream, an error of the connection is legal too (section 5.4.1). The rows say which one it is, so that a change is noticed.

// rule is something that a peer sends on stream 3, or that has no stream, while stream 1 is open.
type rule struct {
	section, name string
	send          func(p *peer)
	connection    ErrCode // the connection ends with it
	stream        ErrCode // stream 3 ends with it
	refused       string  // stream 3 ends with this HTTP status, or gRPC status
}

// raw sends frames as they are.
func raw(frames ...[]byte) func(p *peer) {
	return func(p *peer) {
		for _, f := range frames {
			p.write(f)
		}
	}
}

// opened sends frames behind the headers of stream 3.
func opened(frames ...[]byte) func(p *peer) {
	return func(p *peer) {
		p.open(3, "/test/Echo")
		raw(frames...)(p)
	}
}

// ended sends frames behind a stream 3 that the peer has ended; silent does not answer it, so that it stays.
func ended(frames ...[]byte) func(p *peer) {
	return func(p *peer) {
		p.open(3, "/test/Silent")
		p.data(3, true, nil)
		raw(frames...)(p)
	}
}

// cancelled sends frames behind a stream 3 that the peer has reset.
func cancelled(frames ...[]byte) func(p *peer) {
	return opened(append([][]byte{appendRSTStream(nil, 3, Cancel)}, frames...)...)
}

// request sends a request of these fields on stream 3; as HPACK literals, so that nothing is corrected.
func request(fields ...string) func(p *peer) {
	return func(p *peer) { p.write(rawFrame(frameHeaders, flagEndHeaders, 3, literals(fields...))) }
}

// literals is a header block without tables and Huffman coding.
func literals(fields ...string) (block []byte) {
	for i := 0; i < len(fields); i += 2 {
		block = appendLiteral(appendLiteral(append(block, 0), fields[i]), fields[i+1])
	}
	return block
}

var goodFields = []string{":method", "POST", ":scheme", "http", ":path", "/test/Echo", ":authority", "x", "content-type", "application/grpc"}

// more sends a good request with more fields.
func more(fields ...string) func(p *peer) {
	return request(append(goodFields[:len(goodFields):len(goodFields)], fields...)...)
}

// but sends a good request without a field, or with another value of it.
func but(name string, value ...string) func(p *peer) {
	var fields []string
	for i := 0; i < len(goodFields); i += 2 {
		switch {
		case goodFields[i] != name:
			fields = append(fields, goodFields[i], goodFields[i+1])
		case len(value) > 0:
			fields = append(fields, name, value[0])
		}
	}
	return request(fields...)
}

// block sends a header block on stream 3.
func block(b ...byte) func(p *peer) { return raw(rawFrame(frameHeaders, flagEndHeaders, 3, b)) }

func setting(id uint16, v uint32) func(p *peer) {
	return raw(rawFrame(frameSettings, 0, 0, appendSetting(nil, id, v)))
}

var (
	fourZeros = make([]byte, 4)
	ping8     = []byte("12345678")
	good      = literals(goodFields...)
)

// rules are those of a server.
var rules = []rule{
	{section: "4.1", name: "unknown type", send: raw(rawFrame(0xbe, 0xff, 3, ping8))},
	{section: "4.1", name: "unknown type on an odd stream", send: raw(rawFrame(0xbe, 0, 2, nil))},
	{section: "4.1", name: "unknown flags of HEADERS and DATA", send: raw(rawFrame(frameHeaders, flagEndHeaders|0xd2, 3, good), rawFrame(frameData, 0xf6, 3, message("x")))},
	{section: "4.1", name: "unknown flags of PING and SETTINGS", send: raw(rawFrame(framePing, 0xfe, 0, ping8), rawFrame(frameSettings, 0xfe, 0, nil))},
	{section: "4.1", name: "reserved bit", send: raw(rawFrame(frameHeaders, flagEndHeaders, 1<<31|3, good), rawFrame(framePing, 0, 1<<31, ping8))},
	{section: "4.2", name: "DATA too large", send: opened(appendFrameHeader(nil, maxFrameSize+1, frameData, 0, 3)), connection: FrameSizeError},
	{section: "4.2", name: "HEADERS too large", send: raw(appendFrameHeader(nil, maxFrameSize+1, frameHeaders, 0, 3)), connection: FrameSizeError},
	{section: "4.2", name: "unknown type too large", send: raw(appendFrameHeader(nil, 1<<24-1, 0xbe, 0, 3)), connection: FrameSizeError},
	{section: "4.2", name: "HEADERS too small for a priority", send: raw(rawFrame(frameHeaders, flagEndHeaders|flagPriority, 3, fourZeros)), connection: FrameSizeError},
	{section: "4.2", name: "DATA too small for the length of its padding", send: opened(rawFrame(frameData, flagPadded, 3, nil)), connection: ProtocolError},
	{section: "4.2", name: "HEADERS too small for the length of its padding", send: raw(rawFrame(frameHeaders, flagPadded, 3, nil)), connection: ProtocolError},
	{section: "4.3", name: "block interrupted by DATA", send: raw(rawFrame(frameHeaders, 0, 3, good), rawFrame(frameData, 0, 1, nil)), connection: ProtocolError},
	{section: "4.3", name: "block interrupted by HEADERS", send: raw(rawFrame(frameHeaders, 0, 3, good), rawFrame(frameHeaders, flagEndHeaders, 5, good)), connection: ProtocolError},
	{section: "4.3", name: "block interrupted by HEADERS of its stream", send: raw(rawFrame(frameHeaders, 0, 3, good), rawFrame(frameHeaders, flagEndHeaders, 3, good)), connection: ProtocolError},
	{section: "4.3", name: "block interrupted by PING", send: raw(rawFrame(frameHeaders, 0, 3, good), rawFrame(framePing, 0, 0, ping8)), connection: ProtocolError},
	{section: "4.3", name: "block interrupted by RST_STREAM", send: raw(rawFrame(frameHeaders, 0, 3, good), appendRSTStream(nil, 3, Cancel)), connection: ProtocolError},
	{section: "4.3", name: "block interrupted by an unknown type", send: raw(rawFrame(frameHeaders, 0, 3, good), rawFrame(0xbe, 0, 3, nil)), connection: ProtocolError},
	{section: "4.3", name: "CONTINUATION of another stream", send: raw(rawFrame(frameHeaders, 0, 3, good), rawFrame(frameContinuation, flagEndHeaders, 5, nil)), connection: ProtocolError},
	{section: "4.3", name: "block in parts", send: raw(rawFrame(frameHeaders, 0, 3, good[:9]), rawFrame(frameContinuation, 0, 3, nil), rawFrame(frameContinuation, flagEndHeaders, 3, good[9:]))},
	{section: "4.3", name: "the block of a refused stream goes through HPACK", stream: ProtocolError, send: func(p *peer) {
		p.write(rawFrame(frameHeaders, flagEndHeaders, 3, p.call("/test/Echo", "UPPER", "x", "kept", "in the table")))
		p.open(5, "/test/Echo", "kept", "in the table")
	}},
	{section: "4.3", name: "the trailers of a stream that we have reset go through HPACK", stream: ProtocolError, send: func(p *peer) {
		p.open(3, "/test/Echo")
		p.write(appendWindowUpdate(nil, 3, 0))
		p.write(rawFrame(frameHeaders, flagEndHeaders|flagEndStream, 3, p.block("kept", "in the table")))
		p.open(5, "/test/Echo", "kept", "in the table")
	}},

	{section: "5.1", name: "DATA on an idle stream", send: raw(rawFrame(frameData, 0, 3, nil)), connection: ProtocolError},
	{section: "5.1", name: "RST_STREAM on an idle stream", send: raw(appendRSTStream(nil, 3, Cancel)), connection: ProtocolError},
	{section: "5.1", name: "WINDOW_UPDATE on an idle stream", send: raw(appendWindowUpdate(nil, 3, 1)), connection: ProtocolError},
	{section: "5.1", name: "WINDOW_UPDATE on a stream of ours, which we never open", send: raw(appendWindowUpdate(nil, 2, 1)), connection: ProtocolError},
	{section: "5.1", name: "CONTINUATION on an idle stream", send: raw(rawFrame(frameContinuation, flagEndHeaders, 3, nil)), connection: ProtocolError},
	{section: "5.1", name: "PRIORITY on an idle stream", send: raw(rawFrame(framePriority, 0, 3, append(fourZeros, 0)))},
	{section: "5.1", name: "DATA after END_STREAM", send: ended(rawFrame(frameData, 0, 3, nil)), stream: StreamClosed},
	{section: "5.1", name: "HEADERS after END_STREAM", send: ended(rawFrame(frameHeaders, flagEndHeaders|flagEndStream, 3, nil)), connection: StreamClosed},
	{section: "5.1", name: "CONTINUATION after END_STREAM", send: ended(rawFrame(frameContinuation, flagEndHeaders, 3, nil)), connection: ProtocolError},
	{section: "5.1", name: "WINDOW_UPDATE and PRIORITY after END_STREAM", send: ended(appendWindowUpdate(nil, 3, 1), rawFrame(framePriority, 0, 3, make([]byte, 5)))},
	{section: "5.1", name: "RST_STREAM after END_STREAM", send: ended(appendRSTStream(nil, 3, Cancel))},
	{section: "5.1", name: "DATA after RST_STREAM", send: cancelled(rawFrame(frameData, 0, 3, nil)), stream: StreamClosed},
	{section: "5.1", name: "HEADERS after RST_STREAM", send: cancelled(rawFrame(frameHeaders, flagEndHeaders|flagEndStream, 3, good)), connection: StreamClosed},
	{section: "5.1", name: "WINDOW_UPDATE, PRIORITY and RST_STREAM after RST_STREAM", send: cancelled(appendWindowUpdate(nil, 3, 1), rawFrame(framePriority, 0, 3, make([]byte, 5)), appendRSTStream(nil, 3, Cancel))},
	{section: "5.1", name: "DATA, HEADERS and WINDOW_UPDATE that cross our RST_STREAM", stream: ProtocolError, send: opened(
		appendWindowUpdate(nil, 3, 0), appendWindowUpdate(nil, 3, 1), rawFrame(frameData, 0, 3, message("x")), rawFrame(frameHeaders, flagEndHeaders|flagEndStream, 3, literals("x", "y")))},
	{section: "5.1.1", name: "HEADERS on an even stream", send: raw(rawFrame(frameHeaders, flagEndHeaders, 2, good)), connection: ProtocolError},
	{section: "5.1.1", name: "HEADERS on an earlier stream than the last one", send: raw(rawFrame(frameHeaders, flagEndHeaders, 5, good), rawFrame(frameHeaders, flagEndHeaders, 3, good)), connection: StreamClosed},
	{section: "5.1.1", name: "a stream that was left out", send: raw(rawFrame(frameHeaders, flagEndHeaders, 5, good))},
	{section: "5.3", name: "stream that depends on itself", send: raw(rawFrame(frameHeaders, flagEndHeaders|flagPriority, 3, append([]byte{0, 0, 0, 3, 0}, good...))), stream: ProtocolError},
	{section: "5.5", name: "unknown setting", send: setting(0xbeef, 1<<32-1)},

	{section: "6.1", name: "DATA on stream 0", send: raw(rawFrame(frameData, 0, 0, nil)), connection: ProtocolError},
	{section: "6.1", name: "DATA with more padding than payload", send: opened(rawFrame(frameData, flagPadded, 3, []byte{4, 0, 0, 0})), connection: ProtocolError},
	{section: "6.1", name: "DATA that is all padding", send: opened(rawFrame(frameData, flagPadded, 3, []byte{3, 0, 0, 0}))},
	{section: "6.2", name: "HEADERS on stream 0", send: raw(rawFrame(frameHeaders, flagEndHeaders, 0, good)), connection: ProtocolError},
	{section: "6.2", name: "HEADERS with more padding than payload", send: raw(rawFrame(frameHeaders, flagEndHeaders|flagPadded, 3, append([]byte{255}, good[:100]...))), connection: ProtocolError},
	{section: "6.2", name: "HEADERS with padding and a priority", send: raw(rawFrame(frameHeaders, flagEndHeaders|flagPadded|flagPriority, 3, append(append([]byte{2, 0, 0, 0, 0, 0}, good...), 0, 0)))},
	{section: "6.3", name: "PRIORITY on stream 0", send: raw(rawFrame(framePriority, 0, 0, make([]byte, 5))), connection: ProtocolError},
	{section: "6.3", name: "PRIORITY of four bytes", send: opened(rawFrame(framePriority, 0, 3, fourZeros)), stream: FrameSizeError},
	{section: "6.3", name: "PRIORITY of six bytes on an idle stream", send: raw(rawFrame(framePriority, 0, 3, make([]byte, 6))), connection: FrameSizeError},
	{section: "6.4", name: "RST_STREAM on stream 0", send: raw(appendRSTStream(nil, 0, Cancel)), connection: ProtocolError},
	{section: "6.4", name: "RST_STREAM of three bytes", send: opened(rawFrame(frameRSTStream, 0, 3, make([]byte, 3))), connection: FrameSizeError},
	{section: "6.4", name: "RST_STREAM of five bytes", send: opened(rawFrame(frameRSTStream, 0, 3, make([]byte, 5))), connection: FrameSizeError},
	{section: "6.5", name: "SETTINGS acknowledgement with a payload", send: raw(rawFrame(frameSettings, flagAck, 0, make([]byte, 6))), connection: FrameSizeError},
	{section: "6.5", name: "SETTINGS on a stream", send: raw(rawFrame(frameSettings, 0, 1, nil)), connection: ProtocolError},
	{section: "6.5", name: "SETTINGS acknowledgement on a stream", send: raw(rawFrame(frameSettings, flagAck, 1, nil)), connection: ProtocolError},
	{section: "6.5", name: "SETTINGS of seven bytes", send: raw(rawFrame(frameSettings, 0, 0, make([]byte, 7))), connection: FrameSizeError},
	{section: "6.5.2", name: "SETTINGS_ENABLE_PUSH of 2", send: setting(settingEnablePush, 2), connection: ProtocolError},
	{section: "6.5.2", name: "SETTINGS_ENABLE_PUSH of 1", send: setting(settingEnablePush, 1)},
	{section: "6.5.2", name: "SETTINGS_INITIAL_WINDOW_SIZE too large", send: setting(settingInitialWindowSize, 1<<31), connection: FlowControlError},
	{section: "6.5.2", name: "SETTINGS_INITIAL_WINDOW_SIZE as large as can be", send: setting(settingInitialWindowSize, 1<<31-1)},
	{section: "6.5.2", name: "SETTINGS_MAX_FRAME_SIZE too small", send: setting(settingMaxFrameSize, 1<<14-1), connection: ProtocolError},
	{section: "6.5.2", name: "SETTINGS_MAX_FRAME_SIZE too large", send: setting(settingMaxFrameSize, 1<<24), connection: ProtocolError},
	{section: "6.5.2", name: "SETTINGS_MAX_FRAME_SIZE at its limits", send: raw(rawFrame(frameSettings, 0, 0, appendSetting(appendSetting(nil, settingMaxFrameSize, 1<<24-1), settingMaxFrameSize, 1<<14)))},
	{section: "6.6", name: "PUSH_PROMISE", send: opened(rawFrame(framePushPromise, flagEndHeaders, 3, fourZeros)), connection: ProtocolError},
	{section: "6.7", name: "PING on a stream", send: raw(rawFrame(framePing, 0, 1, ping8)), connection: ProtocolError},
	{section: "6.7", name: "PING of seven bytes", send: raw(rawFrame(framePing, 0, 0, ping8[:7])), connection: FrameSizeError},
	{section: "6.7", name: "PING of nine bytes", send: raw(rawFrame(framePing, flagAck, 0, make([]byte, 9))), connection: FrameSizeError},
	{section: "6.8", name: "GOAWAY on a stream", send: raw(rawFrame(frameGoAway, 0, 1, ping8)), connection: ProtocolError},
	{section: "6.8", name: "GOAWAY of seven bytes", send: raw(rawFrame(frameGoAway, 0, 0, ping8[:7])), connection: FrameSizeError},
	{section: "6.8", name: "GOAWAY: streams under way go on", send: raw(appendGoAway(nil, 0, NoError, "bye"))},
	{section: "6.9", name: "WINDOW_UPDATE of 0 on a stream", send: opened(appendWindowUpdate(nil, 3, 0)), stream: ProtocolError},
	{section: "6.9", name: "WINDOW_UPDATE of 0", send: raw(appendWindowUpdate(nil, 0, 0)), connection: ProtocolError},
	{section: "6.9", name: "WINDOW_UPDATE of the reserved bit only", send: raw(appendWindowUpdate(nil, 0, 1<<31)), connection: ProtocolError},
	{section: "6.9", name: "WINDOW_UPDATE of three bytes", send: raw(rawFrame(frameWindowUpdate, 0, 0, make([]byte, 3))), connection: FrameSizeError},
	{section: "6.9", name: "WINDOW_UPDATE of five bytes on a stream", send: opened(rawFrame(frameWindowUpdate, 0, 3, make([]byte, 5))), connection: FrameSizeError},
	{section: "6.9.1", name: "window of a stream too large", send: opened(appendWindowUpdate(nil, 3, maxWindow)), stream: FlowControlError},
	{section: "6.9.1", name: "window of the connection too large", send: raw(appendWindowUpdate(nil, 0, maxWindow)), connection: FlowControlError},
	{section: "6.9.1", name: "window of a stream exceeded by padding", stream: FlowControlError, refused: "415", send: func(p *peer) {
		but("content-type")(p) // Nobody takes its DATA, so that its window stays as it was.
		for range 5 {
			p.write(rawFrame(frameData, flagPadded, 3, append([]byte{100}, make([]byte, maxFrameSize-1)...)))
		}
	}},
	{section: "6.9.2", name: "window of a stream too large by SETTINGS", connection: FlowControlError, send: opened(
		appendWindowUpdate(nil, 3, maxWindow-defaultWindow), rawFrame(frameSettings, 0, 0, appendSetting(nil, settingInitialWindowSize, defaultWindow+1)))},
	{section: "6.10", name: "CONTINUATION on stream 0", send: raw(rawFrame(frameContinuation, flagEndHeaders, 0, nil)), connection: ProtocolError},
	{section: "6.10", name: "CONTINUATION after END_HEADERS", send: opened(rawFrame(frameContinuation, flagEndHeaders, 3, nil)), connection: ProtocolError},
	{section: "6.10", name: "CONTINUATION after DATA", send: opened(rawFrame(frameData, 0, 3, nil), rawFrame(frameContinuation, flagEndHeaders, 3, nil)), connection: ProtocolError},
	{section: "7", name: "unknown error codes", send: opened(appendRSTStream(nil, 3, 0xffff), appendGoAway(nil, 0, 0xffff, ""))},

	{section: "8.1", name: "second HEADERS without END_STREAM", send: opened(rawFrame(frameHeaders, flagEndHeaders, 3, literals("x", "y"))), stream: ProtocolError},
	{section: "8.1", name: "pseudo-header in trailers", send: opened(rawFrame(frameHeaders, flagEndHeaders|flagEndStream, 3, literals(":path", "/"))), stream: ProtocolError},
	{section: "8.1.1", name: "END_STREAM before the content-length", stream: ProtocolError, send: raw(rawFrame(frameHeaders, flagEndHeaders|flagEndStream, 3, append(good[:len(good):len(good)], literals("content-length", "1")...)))},
	{section: "8.1.1", name: "trailers before the content-length", stream: ProtocolError, send: func(p *peer) {
		more("content-length", "5")(p)
		raw(rawFrame(frameHeaders, flagEndHeaders|flagEndStream, 3, literals("x", "y")))(p)
	}},
	{section: "8.2.1", name: "upper case in a name", send: more("X-Upper", "x"), stream: ProtocolError},
	{section: "8.2.1", name: "empty name", send: more("", "x"), stream: ProtocolError},
	{section: "8.2.1", name: "space in a name", send: more("a b", "x"), stream: ProtocolError},
	{section: "8.2.1", name: "control character in a name", send: more("a\x1f", "x"), stream: ProtocolError},
	{section: "8.2.1", name: "DEL in a name", send: more("a\x7f", "x"), stream: ProtocolError},
	{section: "8.2.1", name: "byte above ASCII in a name", send: more("a\xff", "x"), stream: ProtocolError},
	{section: "8.2.1", name: "colon in a name", send: more("a:b", "x"), stream: ProtocolError},
	{section: "8.2.1", name: "NUL in a value", send: more("a", "x\x00y"), stream: ProtocolError},
	{section: "8.2.1", name: "CR in a value", send: more("a", "x\ry"), stream: ProtocolError},
	{section: "8.2.1", name: "LF in a value", send: more("a", "x\ny"), stream: ProtocolError},
	{section: "8.2.1", name: "LF in a pseudo-header", send: but(":path", "/test/Echo\n"), stream: ProtocolError},
	{section: "8.2.1", name: "space before a value", send: more("a", " x"), stream: ProtocolError},
	{section: "8.2.1", name: "tab behind a value", send: more("a", "x\t"), stream: ProtocolError},
	{section: "8.2.1", name: "what else a value may be", send: more("a", "", "b", "x\ty \xff\x7f\x01z")},
	{section: "8.2.2", name: "connection", send: more("connection", "close"), stream: ProtocolError},
	{section: "8.2.2", name: "proxy-connection", send: more("proxy-connection", "x"), stream: ProtocolError},
	{section: "8.2.2", name: "keep-alive", send: more("keep-alive", "x"), stream: ProtocolError},
	{section: "8.2.2", name: "transfer-encoding", send: more("transfer-encoding", "chunked"), stream: ProtocolError},
	{section: "8.2.2", name: "upgrade", send: more("upgrade", "x"), stream: ProtocolError},
	{section: "8.2.2", name: "te of gzip", send: more("te", "gzip"), stream: ProtocolError},
	{section: "8.2.2", name: "te of trailers", send: more("te", "trailers")},
	{section: "8.2.2", name: "connection in trailers", send: opened(rawFrame(frameHeaders, flagEndHeaders|flagEndStream, 3, literals("connection", "close"))), stream: ProtocolError},
	{section: "8.2.3", name: "cookies in parts", send: more("cookie", "a=b", "cookie", "c=d")},
	{section: "8.3", name: "pseudo-header behind a field", send: request(append([]string{"x", "y"}, goodFields...)...), stream: ProtocolError},
	{section: "8.3", name: "pseudo-header twice", send: request(append([]string{":method", "POST"}, goodFields...)...), stream: ProtocolError},
	{section: "8.3", name: "unknown pseudo-header", send: request(append([]string{":x", "y"}, goodFields...)...), stream: ProtocolError},
	{section: "8.3", name: "pseudo-header of an answer", send: request(append([]string{":status", "200"}, goodFields...)...), stream: ProtocolError},
	{section: "8.3.1", name: "no :method", send: but(":method"), stream: ProtocolError},
	{section: "8.3.1", name: "no :scheme", send: but(":scheme"), stream: ProtocolError},
	{section: "8.3.1", name: "no :path", send: but(":path"), stream: ProtocolError},
	{section: "8.3.1", name: "empty :path", send: but(":path", ""), stream: ProtocolError},
	{section: "8.3.1", name: "no :authority", send: but(":authority")},
	{section: "8.3.1", name: "path without a slash", send: but(":path", "test"), refused: "12"},
	{section: "8.5", name: "CONNECT with a path", send: request(":method", "CONNECT", ":path", "/", ":authority", "x:1"), stream: ProtocolError},
	{section: "8.5", name: "CONNECT with a scheme", send: request(":method", "CONNECT", ":scheme", "http", ":authority", "x:1"), stream: ProtocolError},
	{section: "8.5", name: "CONNECT without an authority", send: request(":method", "CONNECT"), stream: ProtocolError},
	{section: "8.5", name: "CONNECT", refused: "415", send: func(p *peer) {
		p.write(rawFrame(frameHeaders, flagEndHeaders|flagEndStream, 3, literals(":method", "CONNECT", ":authority", "x:1")))
	}},

	{section: "RFC 7541 2.3.3", name: "index 0", send: block(0x80), connection: CompressionError},
	{section: "RFC 7541 2.3.3", name: "index past both tables", send: block(0xff, 0x40), connection: CompressionError},
	{section: "RFC 7541 2.3.3", name: "index of a name past both tables", send: block(0x7f, 0x40, 0x01, 'x'), connection: CompressionError},
	{section: "RFC 7541 4.2", name: "table size behind a field", send: block(0x82, 0x20), connection: CompressionError},
	{section: "RFC 7541 4.2", name: "table sizes at the beginning", send: raw(rawFrame(frameHeaders, flagEndHeaders, 3, append([]byte{0x20, 0x3f, 0xe1, 0x1f}, good...)))},
	{section: "RFC 7541 4.4", name: "entry larger than the table", send: raw(rawFrame(frameHeaders, flagEndHeaders, 3, append(append([]byte{}, good...), appendLiteral([]byte{0x40, 1, 'x'}, strings.Repeat("v", 5000))...)))},
	{section: "RFC 7541 5.1", name: "integer without an end", send: block(append([]byte{0xff}, repeat(30, []byte{0x80})...)...), connection: CompressionError},
	{section: "RFC 7541 5.1", name: "integer too large", send: block(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f), connection: CompressionError},
	{section: "RFC 7541 5.1", name: "integer cut off", send: block(0xff, 0x80), connection: CompressionError},
	{section: "RFC 7541 5.2", name: "string cut off", send: block(0x00, 0x01, 'x', 0x05, 'y'), connection: CompressionError},
	{section: "RFC 7541 5.2", name: "field without its value", send: block(0x00, 0x01, 'x'), connection: CompressionError},
	{section: "RFC 7541 5.2", name: "Huffman: padding of a byte", send: block(0x00, 0x01, 'x', 0x82, 0x1f, 0xff), connection: CompressionError},
	{section: "RFC 7541 5.2", name: "Huffman: padding with zeros", send: block(0x00, 0x01, 'x', 0x81, 0x18), connection: CompressionError},
	{section: "RFC 7541 5.2", name: "Huffman: EOS within a string", send: block(0x00, 0x01, 'x', 0x84, 0xff, 0xff, 0xff, 0xff), connection: CompressionError},
	{section: "RFC 7541 6.3", name: "table larger than offered", send: block(0x3f, 0xe2, 0x1f), connection: CompressionError},
}

// fate is what a peer sees within a moment.
type fate struct {
	goAway bool
	code   ErrCode            // of GOAWAY
	resets map[uint32]ErrCode // by stream
	status map[uint32]string  // by stream that has ended
}

// fate reads until an answer to a PING, or the end of the connection.
func (p *peer) fate() fate {
	p.t.Helper()
	f := fate{resets: map[uint32]ErrCode{}, status: map[uint32]string{}}
	_ = p.fr.WritePing(false, [8]byte{'f', 'a', 't', 'e'}) // It fails when the connection has ended.
	for {
		fr, err := p.fr.ReadFrame()
		if err != nil {
			return f
		}
		switch fr := fr.(type) {
		case *http2.GoAwayFrame:
			f.goAway, f.code = true, ErrCode(fr.ErrCode)
		case *http2.RSTStreamFrame:
			f.resets[fr.StreamID] = ErrCode(fr.ErrCode)
		case *http2.HeadersFrame:
			fields, err := p.dec.DecodeFull(fr.HeaderBlockFragment())
			p.must(err)
			for _, field := range fields {
				if field.Name == "grpc-status" || field.Name == ":status" && field.Value != "200" {
					f.status[fr.StreamID] = field.Value
				}
			}
		case *http2.PingFrame:
			if fr.IsAck() && fr.Data == [8]byte{'f', 'a', 't', 'e'} {
				return f
			}
		}
	}
}

// TestRules: who breaks a rule gets the error that the RFC names, and the other stream of the connection notices only errors of the connection.
func TestRules(t *testing.T) {
	noLeaks(t)
	addr, _ := startServer(t, Config{StreamWindow: defaultWindow}, silent{})
	other := dial(t, addr)
	for _, r := range rules {
		t.Run(r.section+" "+r.name, func(t *testing.T) {
			p := newPeer(t, addr)
			p.open(1, "/test/Echo")
			r.send(p)
			f := p.fate()
			if r.connection != NoError {
				if !f.goAway || f.code != r.connection || len(f.resets) != 0 {
					t.Errorf("got %+v; want GOAWAY with %d", f, r.connection)
				}
				return
			}
			want := fate{resets: map[uint32]ErrCode{}, status: map[uint32]string{}}
			if r.stream != NoError {
				want.resets[3] = r.stream
			}
			if r.refused != "" {
				want.status[3] = r.refused
			}
			if fmt.Sprint(f) != fmt.Sprint(want) {
				t.Errorf("got %+v; want %+v", f, want)
			}
			p.data(1, true, message("on"))
			if o := p.outcome(1); o.fields["grpc-status"] != "0" || string(o.data) != string(message("on")) {
				t.Errorf("the other stream: %v", o)
			}
		})
	}
	honest(t, other)
}

// TestFirstFrame: the preface is followed by SETTINGS (RFC 9113 section 3.4).
func TestFirstFrame(t *testing.T) {
	addr, _ := startServer(t, Config{}, echoHandler{})
	for name, frame := range map[string][]byte{
		"PING": rawFrame(framePing, 0, 0, ping8), "HEADERS": rawFrame(frameHeaders, flagEndHeaders, 1, good), "SETTINGS acknowledgement": rawFrame(frameSettings, flagAck, 0, nil),
		"unknown type": rawFrame(0xbe, 0, 0, nil), "WINDOW_UPDATE": appendWindowUpdate(nil, 0, 1),
	} {
		t.Run(name, func(t *testing.T) {
			p := rawPeer(t, addr)
			p.write(append([]byte(preface), frame...))
			if f := p.fate(); !f.goAway || f.code != ProtocolError {
				t.Errorf("got %+v", f)
			}
		})
	}
}

// clientRules are those of a client: what its server sends while calls 1 and 3 are under way.
var clientRules = []rule{
	{section: "4.1", name: "unknown type and flags", send: raw(rawFrame(0xbe, 0xff, 3, ping8), rawFrame(framePing, 0xfe, 0, ping8))},
	{section: "4.2", name: "frame too large", send: raw(appendFrameHeader(nil, maxFrameSize+1, frameData, 0, 3)), connection: FrameSizeError},
	{section: "4.3", name: "block that is no HPACK", send: block(0x80), connection: CompressionError},
	{section: "4.3", name: "block interrupted", send: raw(rawFrame(frameHeaders, 0, 3, []byte{0x88}), rawFrame(framePing, 0, 0, ping8)), connection: ProtocolError},
	{section: "5.1", name: "DATA on an idle stream", send: raw(rawFrame(frameData, 0, 5, nil)), connection: ProtocolError},
	{section: "5.1", name: "RST_STREAM on an idle stream", send: raw(appendRSTStream(nil, 5, Cancel)), connection: ProtocolError},
	{section: "5.1", name: "WINDOW_UPDATE on an idle stream", send: raw(appendWindowUpdate(nil, 5, 1)), connection: ProtocolError},
	{section: "5.1.1", name: "HEADERS on a stream that we have not opened", send: raw(rawFrame(frameHeaders, flagEndHeaders, 5, []byte{0x88})), connection: ProtocolError},
	{section: "5.1.1", name: "HEADERS on a stream of the server", send: raw(rawFrame(frameHeaders, flagEndHeaders, 2, []byte{0x88})), connection: ProtocolError},
	{section: "6.1", name: "DATA on stream 0", send: raw(rawFrame(frameData, 0, 0, nil)), connection: ProtocolError},
	{section: "6.1", name: "more padding than payload", send: raw(rawFrame(frameData, flagPadded, 3, []byte{1})), connection: ProtocolError},
	{section: "6.2", name: "HEADERS on stream 0", send: raw(rawFrame(frameHeaders, flagEndHeaders, 0, []byte{0x88})), connection: ProtocolError},
	{section: "6.4", name: "RST_STREAM on stream 0", send: raw(appendRSTStream(nil, 0, Cancel)), connection: ProtocolError},
	{section: "6.4", name: "RST_STREAM of five bytes", send: raw(rawFrame(frameRSTStream, 0, 3, make([]byte, 5))), connection: FrameSizeError},
	{section: "6.5", name: "SETTINGS on a stream", send: raw(rawFrame(frameSettings, 0, 1, nil)), connection: ProtocolError},
	{section: "6.5.2", name: "SETTINGS_ENABLE_PUSH of 1", send: setting(settingEnablePush, 1), connection: ProtocolError},
	{section: "6.5.2", name: "SETTINGS_ENABLE_PUSH of 0", send: setting(settingEnablePush, 0)},
	{section: "6.5.2", name: "SETTINGS_INITIAL_WINDOW_SIZE too large", send: setting(settingInitialWindowSize, 1<<31), connection: FlowControlError},
	{section: "6.5.2", name: "SETTINGS_MAX_FRAME_SIZE too small", send: setting(settingMaxFrameSize, 1), connection: ProtocolError},
	{section: "6.6", name: "PUSH_PROMISE", send: raw(rawFrame(framePushPromise, flagEndHeaders, 3, append(fourZeros, 0x82))), connection: ProtocolError},
	{section: "6.7", name: "PING of seven bytes", send: raw(rawFrame(framePing, 0, 0, ping8[:7])), connection: FrameSizeError},
	{section: "6.8", name: "GOAWAY on a stream", send: raw(rawFrame(frameGoAway, 0, 1, ping8)), connection: ProtocolError},
	{section: "6.9", name: "WINDOW_UPDATE of 0", send: raw(appendWindowUpdate(nil, 0, 0)), connection: ProtocolError},
	{section: "6.9", name: "WINDOW_UPDATE of 0 on a stream", send: raw(appendWindowUpdate(nil, 3, 0)), stream: ProtocolError},
	{section: "6.9.1", name: "window of a stream too large", send: raw(appendWindowUpdate(nil, 3, maxWindow)), stream: FlowControlError},
	{section: "6.9.1", name: "window of the connection too large", send: raw(appendWindowUpdate(nil, 0, maxWindow)), connection: FlowControlError},
	{section: "6.10", name: "CONTINUATION without HEADERS", send: raw(rawFrame(frameContinuation, flagEndHeaders, 3, nil)), connection: ProtocolError},
	{section: "8.1", name: "DATA before HEADERS", send: raw(rawFrame(frameData, 0, 3, message("x"))), stream: ProtocolError},
	{section: "8.2.1", name: "upper case in a name", send: block(append([]byte{0x88}, literals("X", "y")...)...), stream: ProtocolError},
	{section: "8.3.2", name: "no :status", send: block(literals("content-type", "application/grpc")...), stream: ProtocolError},
	{section: "8.3.2", name: "two :status", send: block(0x88, 0x88), stream: ProtocolError},
}

// TestClientRules: a server that breaks a rule gets the error that the RFC names. No call ends with OK, and the one beside notices only errors of the connection.
func TestClientRules(t *testing.T) {
	noLeaks(t)
	for _, r := range clientRules {
		t.Run(r.section+" "+r.name, func(t *testing.T) {
			cl, p := clientOf(t, Config{})
			p.must(p.fr.WriteSettings())
			beside, o := &outcomes{}, &outcomes{}
			cl.call(t, beside, "q")
			cl.call(t, o, "q")
			p.until("the second call", func(f http2.Frame) bool { return f.Header().Type == http2.FrameData && f.Header().StreamID == 3 })
			r.send(p)
			f := p.fate()
			if r.connection != NoError {
				p.nc.Close() // The client lingers for it.
				<-cl.Done()
				if !f.goAway || f.code != r.connection || o.String() != "reset" || beside.String() != "reset" {
					t.Errorf("got %+v; want GOAWAY with %d; the calls: %v; %v", f, r.connection, o, beside)
				}
				return
			}
			code, reset := f.resets[3]
			if f.goAway || reset != (r.stream != NoError) || code != r.stream || reset != (o.String() != "") || strings.HasPrefix(o.String(), "status 0") {
				t.Errorf("got %+v; want stream error %d; the call: %v", f, r.stream, o)
			}
			p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(":status", "200", "content-type", "application/grpc", "grpc-status", "0"), EndHeaders: true, EndStream: true}))
			p.ping()
			if beside.String() != "status 0 " {
				t.Errorf("the call beside: %v", beside)
			}
		})
	}
}
