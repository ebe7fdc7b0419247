package main

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/policy-engine/policy-engine/fastpath/codec"
)

// fakeStream brings one message, and keeps its answer.
type fakeStream struct {
	grpc.ServerStream
	message, answer []byte
}

func (s *fakeStream) RecvMsg(m any) error {
	if s.message == nil {
		return io.EOF
	}
	m.(*codec.Frame).B, s.message = s.message, nil
	return nil
}

func (s *fakeStream) SendMsg(m any) error {
	s.answer = m.(*codec.Frame).B
	return nil
}

func TestDuplexGivesBodiesBack(t *testing.T) {
	for _, size := range []int{0, 1, 127, 128, 64 << 10} {
		want := bytes.Repeat([]byte("x"), size)
		request, err := proto.Marshal(&extprocv3.ProcessingRequest{
			Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{Body: want, EndOfStream: true}},
		})
		if err != nil {
			t.Fatal(err)
		}
		st := &fakeStream{message: request}
		if err := serveDuplex(nil, st); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		var answer extprocv3.ProcessingResponse
		if err := proto.Unmarshal(st.answer, &answer); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		piece := answer.GetResponseBody().GetResponse().GetBodyMutation().GetStreamedResponse()
		if !bytes.Equal(piece.GetBody(), want) || !piece.GetEndOfStream() {
			t.Errorf("%d bytes: %d came back, end %t", size, len(piece.GetBody()), piece.GetEndOfStream())
		}
	}
	if err := serveDuplex(nil, &fakeStream{message: []byte{1<<3 | 2, 0}}); !errors.Is(err, errNoPhase) {
		t.Errorf("an answer in place of a request: %v", err)
	}
}
