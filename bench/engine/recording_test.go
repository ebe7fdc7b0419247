package engine

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestParseRecording(t *testing.T) {
	frames := func(id byte, block string, closing bool) string {
		s := "\x00\x00" + string(byte(len(block))) + "\x01\x04\x00\x00\x00" + string(id) + block + "\x00\x00\x06\x00\x00\x00\x00\x00" + string(id) + "\x00\x00\x00\x00\x01x"
		if closing {
			s += "\x00\x00\x04\x03\x00\x00\x00\x00" + string(id) + "\x00\x00\x00\x00"
		}
		return s
	}
	const settings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	const insert, indexed = "\x83\x40\x01a\x01b", "\x83\xbe"
	for _, tc := range []struct {
		name, sent, want string
	}{
		{"legal", preface + settings + frames(1, insert, true) + frames(3, indexed, true) + frames(5, indexed, true) + frames(7, indexed, false), ""},
		{"no preface", settings, "no preface"},
		{"one stream", preface + settings + frames(1, indexed, true), "less than two streams"},
		// The same bytes, which put another field in the place of the one that they refer to, would mean something else in a replay.
		{"blocks that change the table", preface + settings + frames(1, insert, true) + frames(3, "\xbe\x40\x01c\x01d", true) + frames(5, "\xbe\x40\x01c\x01d", true) + frames(7, insert, false), "do not come to be the same"},
		{"blocks that refer to what is not there", preface + settings + frames(1, indexed, true) + frames(3, indexed, true) + frames(5, indexed, true), "decode header block 0"},
		{"stream without its end", preface + settings + frames(1, insert, true) + frames(3, indexed, false) + frames(5, indexed, true) + frames(7, indexed, true), "stream 1 of 3"},
		{"frame of no stream", preface + settings + "\x00\x00\x00\x00\x00\x00\x00\x00\x09", "was not opened"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := ParseRecording([]byte(tc.sent))
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("error %v, want %q", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Streams) != 3 || r.Steady != 1 || string(r.Opening) != preface+settings {
				t.Errorf("%d streams, steady from %d, opening %q", len(r.Streams), r.Steady, r.Opening)
			}
		})
	}
}

// TestCPUTime works for some time and compares with what the runtime knows of this process.
func TestCPUTime(t *testing.T) {
	before, err := CPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		now, err := CPUTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now-before >= 20*time.Millisecond {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("CPU time went from %v to %v in 10 s of work", before, now)
		}
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{gone.Process.Pid, 0, 1 << 30} {
		if _, err := CPUTime(pid); err == nil {
			t.Errorf("process %d, which is none, has a CPU time", pid)
		}
	}
}
