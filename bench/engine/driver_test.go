package engine

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"

	"github.com/policy-engine/policy-engine/test/harness"
)

// TestDriver checks each answer of the engine to each recorded message: a figure about requests that were not decided would be worth nothing.
func TestDriver(t *testing.T) {
	for name, start := range map[string]func() *harness.Engine{
		"two processes": func() *harness.Engine { return harness.StartEngine(t, noEnvoy(t)) },
		"one process":   func() *harness.Engine { return startOneProcess(t) },
	} {
		t.Run(name, func(t *testing.T) { testDriver(t, start()) })
	}
}

func testDriver(t *testing.T, e *harness.Engine) {
	t.Helper()
	for _, scene := range scenes {
		for _, streams := range []int{1, 64} {
			t.Run(fmt.Sprintf("%s/%d", scene, streams), func(t *testing.T) {
				r := recordingOf(t, scene)
				d := dial(t, e.ExtProc, r)
				seen := 0
				d.Answer = func(stream, message int, answer []byte) {
					seen++
					checkAnswer(t, scene, stream, message, answer)
				}
				n := 3 * len(r.Streams)
				if err := d.Run(n, streams); err != nil {
					t.Fatal(err)
				}
				if want := n * len(r.Streams[0].Messages); seen != want {
					t.Errorf("%d answers, want %d", seen, want)
				}
			})
		}
	}
}

func dial(t testing.TB, address string, r *Recording) *Driver {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return NewDriver(conn, r)
}

func checkAnswer(t *testing.T, scene string, stream, message int, answer []byte) {
	t.Helper()
	var m extprocv3.ProcessingResponse
	if err := proto.Unmarshal(answer, &m); err != nil {
		t.Fatal(err)
	}
	set := map[string]string{}
	if message == 0 {
		for _, h := range m.GetRequestHeaders().GetResponse().GetHeaderMutation().GetSetHeaders() {
			set[h.GetHeader().GetKey()] = string(h.GetHeader().GetRawValue())
		}
		want := ""
		if scene != "none" {
			want = fmt.Sprintf("caller-%d", stream%callers)
		}
		if m.GetRequestHeaders() == nil || set["x-user-id"] != want {
			t.Errorf("stream %d: x-user-id is %q, want %q, in %v", stream, set["x-user-id"], want, &m)
		}
		return
	}
	if mutation := m.GetResponseHeaders().GetResponse().GetHeaderMutation(); len(mutation.GetSetHeaders()) == 0 {
		t.Errorf("stream %d: the response gets no headers, in %v", stream, &m)
	}
}

// TestDriverRefusesRefusals: an engine that denies, or breaks off, must not look fast.
func TestDriverRefusesRefusals(t *testing.T) {
	r := recordingOf(t, "chain")
	message := func(b ...byte) []byte {
		return append([]byte{0, 0, byte(messagePrefixLen + len(b)), frameData, 0, 0, 0, 0, 1, 0, 0, 0, 0, byte(len(b))}, b...)
	}
	// The response of a gRPC server, and trailers with grpc-status 0 and 7, in literals without indexing (RFC 7541 section 6.2.2).
	head := []byte{0, 0, 1, frameHeaders, flagEndHeaders, 0, 0, 0, 1, 0x88}
	trailers := func(status byte) []byte {
		block := append(append([]byte{0, 11}, "grpc-status"...), 1, status)
		return append([]byte{0, 0, byte(len(block)), frameHeaders, flagEndHeaders | flagEndStream, 0, 0, 0, 1}, block...)
	}
	allowed := []byte{0x0a, 0}
	for _, tc := range []struct {
		name   string
		engine [][]byte
		want   string // "" is success
	}{
		{"allowed", [][]byte{head, message(allowed...), trailers('0')}, ""},
		{"immediate response", [][]byte{head, message(0x3a, 0), trailers('0')}, "was not allowed"},
		{"answer to another phase", [][]byte{head, message(0x12, 0), trailers('0')}, "was not allowed"},
		{"empty answer", [][]byte{head, message(), trailers('0')}, "is not in one DATA frame"},
		{"error", [][]byte{head, message(allowed...), trailers('7')}, "grpc-status 0: false"},
		{"reset", [][]byte{{0, 0, 4, frameRSTStream, 0, 0, 0, 0, 1, 0, 0, 0, 2}}, "frame of type 3"},
		{"goaway", [][]byte{{0, 0, 8, frameGoAway, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}}, "ends the connection"},
		{"connection ends", nil, "read from the engine"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ours, engine := net.Pipe()
			defer ours.Close()
			go func() {
				defer engine.Close()
				b := make([]byte, 64<<10)
				if _, err := engine.Read(b); err != nil {
					return
				}
				_, _ = engine.Write(bytes.Join(tc.engine, nil))
				if tc.want == "" {
					_, _ = engine.Read(b) // What closes the stream.
				}
			}()
			err := NewDriver(ours, r).Run(1, 1)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("the driver says %v, want %q", err, tc.want)
			}
		})
	}
}
