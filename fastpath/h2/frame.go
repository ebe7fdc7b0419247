package h2

import "encoding/binary"

// Frame types (RFC 9113 section 6).
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	framePriority     = 0x2
	frameRSTStream    = 0x3
	frameSettings     = 0x4
	framePushPromise  = 0x5
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindowUpdate = 0x8
	frameContinuation = 0x9
)

// Frame flags. Their meaning depends on the type of the frame.
const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// ErrCode is an HTTP/2 error code (RFC 9113 section 7).
type ErrCode uint32

// The error codes.
const (
	NoError            ErrCode = 0x0
	ProtocolError      ErrCode = 0x1
	InternalError      ErrCode = 0x2
	FlowControlError   ErrCode = 0x3
	SettingsTimeout    ErrCode = 0x4
	StreamClosed       ErrCode = 0x5
	FrameSizeError     ErrCode = 0x6
	RefusedStream      ErrCode = 0x7
	Cancel             ErrCode = 0x8
	CompressionError   ErrCode = 0x9
	EnhanceYourCalm    ErrCode = 0xb
	InadequateSecurity ErrCode = 0xc
)

// Setting identifiers (RFC 9113 section 6.5.2).
const (
	settingHeaderTableSize      = 0x1
	settingEnablePush           = 0x2
	settingMaxConcurrentStreams = 0x3
	settingInitialWindowSize    = 0x4
	settingMaxFrameSize         = 0x5
	settingMaxHeaderListSize    = 0x6
)

const (
	frameHeaderLen = 9
	// maxFrameSize is the largest payload that we accept: the default, which every peer may use (RFC 9113 section 4.2).
	maxFrameSize  = 16384
	defaultWindow = 65535
	maxWindow     = 1<<31 - 1
	streamIDMask  = 1<<31 - 1
	maxStreamID   = 1<<31 - 1
	preface       = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

type frameHeader struct {
	length   int
	typ      byte
	flags    byte
	streamID uint32
}

func (h frameHeader) has(flag byte) bool { return h.flags&flag != 0 }

// parseFrameHeader reads the first nine bytes of src. The reserved bit is ignored.
func parseFrameHeader(src []byte) frameHeader {
	_ = src[8]
	return frameHeader{
		length:   int(src[0])<<16 | int(src[1])<<8 | int(src[2]),
		typ:      src[3],
		flags:    src[4],
		streamID: binary.BigEndian.Uint32(src[5:9]) & streamIDMask,
	}
}

func appendFrameHeader(dst []byte, length int, typ, flags byte, streamID uint32) []byte {
	return append(dst,
		byte(length>>16), byte(length>>8), byte(length), typ, flags,
		byte(streamID>>24), byte(streamID>>16), byte(streamID>>8), byte(streamID))
}

func appendRSTStream(dst []byte, streamID uint32, code ErrCode) []byte {
	dst = appendFrameHeader(dst, 4, frameRSTStream, 0, streamID)
	return binary.BigEndian.AppendUint32(dst, uint32(code))
}

func appendWindowUpdate(dst []byte, streamID, increment uint32) []byte {
	dst = appendFrameHeader(dst, 4, frameWindowUpdate, 0, streamID)
	return binary.BigEndian.AppendUint32(dst, increment)
}

// appendPing appends a PING; data has eight bytes.
func appendPing(dst []byte, flags byte, data string) []byte {
	return append(appendFrameHeader(dst, len(data), framePing, flags, 0), data...)
}

func appendGoAway(dst []byte, lastStreamID uint32, code ErrCode, debug string) []byte {
	dst = appendFrameHeader(dst, 8+len(debug), frameGoAway, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, lastStreamID)
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	return append(dst, debug...)
}

func appendSetting(dst []byte, id uint16, value uint32) []byte {
	dst = binary.BigEndian.AppendUint16(dst, id)
	return binary.BigEndian.AppendUint32(dst, value)
}

// unpad takes the padding off the payload of a DATA or HEADERS frame (RFC 9113 section 6.1).
func unpad(h frameHeader, payload []byte) (data []byte, ok bool) {
	if !h.has(flagPadded) {
		return payload, true
	}
	if len(payload) == 0 || int(payload[0]) > len(payload)-1 {
		return nil, false
	}
	return payload[1 : len(payload)-int(payload[0])], true
}
