package main

import (
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/policy-engine/policy-engine/fastpath/codec"
)

// serveBodies answers each message of a stream, as one of a body in chunks has to be, until Envoy ends it.
func serveBodies(_ any, st grpc.ServerStream) error {
	var f codec.Frame
	for {
		switch err := st.RecvMsg(&f); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		// The fields of a request are 2 to 7, in the order of the phases; those of its answers are 1 to 6 (external_processor.proto).
		if len(f.B) == 0 || f.B[0] < 2<<3|2 || f.B[0] > 7<<3|2 {
			return errors.New("not a phase of a request")
		}
		if err := st.SendMsg(&codec.Frame{B: []byte{f.B[0] - 1<<3, 0}}); err != nil {
			return err
		}
	}
}
