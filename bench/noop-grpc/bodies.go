package main

import (
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/policy-engine/policy-engine/fastpath/codec"
)

// The tags of the messages with a piece of a body in ProcessingRequest (external_processor.proto).
const (
	requestBody  = 4<<3 | 2
	responseBody = 5<<3 | 2
)

var errNoPhase = errors.New("not a phase of a request")

// serveBodies answers each message of a stream, as one of a body in chunks has to be, until Envoy ends it.
func serveBodies(_ any, st grpc.ServerStream) error {
	return exchange(st, func(tag byte, _ []byte) ([]byte, error) { return empty(tag), nil })
}

// serveDuplex does the same in Envoy's mode FULL_DUPLEX_STREAMED, where the bytes of a body go on only if they are given back.
func serveDuplex(_ any, st grpc.ServerStream) error {
	return exchange(st, func(tag byte, msg []byte) ([]byte, error) {
		if tag != requestBody && tag != responseBody {
			return empty(tag), nil
		}
		// BodyResponse.response, CommonResponse.body_mutation and BodyMutation.streamed_response; an HttpBody has the fields of a StreamedBodyResponse.
		piece, n := protowire.ConsumeBytes(msg[1:])
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		sizes := [4]int{3: len(piece)}
		for i := 2; i >= 0; i-- {
			sizes[i] = 1 + protowire.SizeBytes(sizes[i+1])
		}
		out := make([]byte, 0, 1+protowire.SizeBytes(sizes[0]))
		for i, tag := range [4]byte{tag - 1<<3, 1<<3 | 2, 3<<3 | 2, 3<<3 | 2} {
			out = protowire.AppendVarint(append(out, tag), uint64(sizes[i]))
		}
		return append(out, piece...), nil
	})
}

// empty lets a phase pass. The fields of a request are 2 to 7, in the order of the phases; those of its answers are 1 to 6 (external_processor.proto).
func empty(tag byte) []byte { return []byte{tag - 1<<3, 0} }

// exchange has each message answered.
func exchange(st grpc.ServerStream, answer func(tag byte, msg []byte) ([]byte, error)) error {
	var f codec.Frame
	for {
		switch err := st.RecvMsg(&f); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if len(f.B) == 0 || f.B[0] < 2<<3|2 || f.B[0] > 7<<3|2 {
			return errNoPhase
		}
		out, err := answer(f.B[0], f.B)
		if err != nil {
			return err
		}
		if err := st.SendMsg(&codec.Frame{B: out}); err != nil {
			return err
		}
	}
}
