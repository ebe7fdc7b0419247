package h2

import "encoding/binary"

// Precomputed HPACK (RFC 7541) without the dynamic table, so that no peer's table size matters.
var (
	// :status 200, content-type: application/grpc.
	hpackResponse = append([]byte{0x88, 0x0f, 0x10, 16}, "application/grpc"...)
	// grpc-status: 0.
	hpackStatusOK = append(append([]byte{0x00, 11}, "grpc-status"...), 1, '0')
	// :status 415, content-type: text/plain, content-length: 10.
	hpackNotGRPC = append(append(append([]byte{0x08, 3}, "415"...), append([]byte{0x0f, 0x10, 10}, "text/plain"...)...), 0x0f, 0x0d, 2, '1', '0')
)

// notGRPCBody is the body of the answer to a request that is not gRPC.
const notGRPCBody = "gRPC only\n"

// maxGRPCMessage is how many bytes of a status message are sent.
const maxGRPCMessage = 1024

// appendStatus appends the fields grpc-status and grpc-message as HPACK literals that are not indexed.
func appendStatus(dst []byte, code uint32, message string) []byte {
	if code == 0 {
		return append(dst, hpackStatusOK...)
	}
	dst = append(append(dst, 0x00, 11), "grpc-status"...)
	if code >= 10 {
		dst = append(dst, 2, byte('0'+code/10%10), byte('0'+code%10))
	} else {
		dst = append(dst, 1, byte('0'+code))
	}
	if message == "" {
		return dst
	}
	encoded := percentEncode(message)
	dst = append(append(dst, 0x00, 12), "grpc-message"...)
	dst = appendHpackInt(dst, 7, 0, uint64(len(encoded)))
	return append(dst, encoded...)
}

// appendHpackInt appends an integer with an n-bit prefix (RFC 7541 section 5.1); first holds the bits before the prefix.
func appendHpackInt(dst []byte, n uint, first byte, v uint64) []byte {
	limit := uint64(1)<<n - 1
	if v < limit {
		return append(dst, first|byte(v))
	}
	return binary.AppendUvarint(append(dst, first|byte(limit)), v-limit)
}

// percentEncode encodes a status message as the gRPC HTTP/2 protocol wants it (Status-Message).
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var out []byte
	for i := range len(s) {
		if len(out) >= maxGRPCMessage {
			break
		}
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			out = append(out, c)
		} else {
			out = append(out, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(out)
}
