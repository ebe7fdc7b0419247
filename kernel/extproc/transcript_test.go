package extproc

import (
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

var rewrite = flag.Bool("rewrite", false, "write what the machine does into testdata/*.txt")

// TestTranscripts plays testdata/*.txt. A transcript is the set-up, then events ("< ") with what they must lead to: effects ("> ") and decisions ("! ").
//
// Set-up, one per line, before the first event (see world.setUp):
//
//	worker w1 auth limit@hb       a worker and its policies, with their phases (see descriptorOf); also: worker w1 down auth, worker w1 undiscovered
//	route orders request auth limit:continue response audit
//	unknown_route continue        also: unknown_route deny 410
//	refusals problem_json         the form of refusals; also: template 403 text/html <p>{{message}}</p>
//	no_table                      nothing was ever compiled
//
// Events: open NAME; request_headers, request_body, …, with flags and name=value headers (see envoyMessage); bytes HEX; result … (see parseResult); error NAME;
// later DURATION; half_close; drain; abort; close. The clock moves on by a millisecond with each event.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 45 {
		t.Fatalf("%d transcripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("the machine did otherwise:\n%s", difference(string(want), got))
			}
		})
	}
}

// play carries out a transcript's events and returns the transcript with what they led to.
func play(t *testing.T, script string) string {
	w := newWorld()
	var out strings.Builder
	var m *Machine
	for line := range strings.Lines(script) {
		text := strings.TrimSpace(line)
		if strings.HasPrefix(text, "> ") || strings.HasPrefix(text, "! ") {
			continue
		}
		out.WriteString(text + "\n")
		event, isEvent := strings.CutPrefix(text, "< ")
		switch {
		case text == "" || strings.HasPrefix(text, "#"):
		case !isEvent:
			if err := w.setUp(words(text)); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
		default:
			if m == nil {
				m = New(w.settings(t))
			}
			w.now += 1e6
			effect, err := w.deliver(m, words(event))
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			for _, d := range w.decisions {
				out.WriteString("! " + d + "\n")
			}
			w.decisions = w.decisions[:0]
			if effect != "" {
				out.WriteString("> " + effect + "\n")
			}
		}
	}
	if m != nil && !w.closed {
		t.Error("the transcript does not close the stream")
	}
	w.checkReleased(t)
	return out.String()
}

// words splits a line at its spaces, except within double quotes.
func words(line string) []string {
	var out []string
	var word strings.Builder
	quoted := false
	for _, c := range line {
		switch {
		case c == '"':
			quoted = !quoted
		case c == ' ' && !quoted:
			if word.Len() > 0 {
				out = append(out, word.String())
				word.Reset()
			}
			continue
		}
		word.WriteRune(c)
	}
	if word.Len() > 0 {
		out = append(out, word.String())
	}
	return out
}

// unquote gives the value of a word's right side.
func unquote(value string) string {
	if plain, err := strconv.Unquote(value); err == nil {
		return plain
	}
	return value
}

// deliver carries out one event and shows the effect.
func (w *world) deliver(m *Machine, event []string) (string, error) {
	args := event[1:]
	switch event[0] {
	case "open":
		name := ""
		if len(args) > 0 {
			name = args[0]
		}
		m.Open(name, w.now)
		w.closed = false
		return "", nil
	case "bytes":
		raw, err := hex.DecodeString(strings.Join(args, ""))
		if err != nil {
			return "", err
		}
		return w.showAll(m, m.Message(raw, w.now)), nil
	case "result":
		r, err := parseResult(args)
		if err != nil {
			return "", err
		}
		if r.Phase == 0 {
			r.Phase = w.call.Message.Phase
		}
		return w.showAll(m, m.Complete(w.call, r, nil, w.now)), nil
	case "error":
		err, ok := map[string]error{
			"unavailable": route.ErrUnavailable, "timeout": fmt.Errorf("call of w1: %w", route.ErrTimeout),
			"overloaded": route.ErrOverloaded, "route-overloaded": route.ErrRouteOverloaded, "illegal": route.ErrIllegalResult, "other": errors.New("something else"),
		}[args[0]]
		if !ok {
			return "", fmt.Errorf("unknown error %q", args[0])
		}
		return w.showAll(m, m.Complete(w.call, nil, err, w.now)), nil
	case "no_result":
		return w.showAll(m, m.Complete(w.call, nil, nil, w.now)), nil
	case "strange_call":
		return w.showAll(m, m.Complete(new(route.Call), &workerv1.Result{}, nil, w.now)), nil
	case "later":
		d, err := time.ParseDuration(args[0])
		w.now += Instant(d)
		return "", err
	case "half_close":
		return w.showAll(m, m.HalfClose(w.now)), nil
	case "drain":
		return w.showAll(m, m.Drain(w.now)), nil
	case "abort":
		m.Abort(w.now)
		return "", nil
	case "close":
		m.Close()
		w.closed = true
		return "", nil
	}
	msg, err := envoyMessage(event[0], args)
	if err != nil {
		return "", err
	}
	effect := m.Message(msg, w.now)
	clear(msg) // The machine must not need it any more.
	return w.showAll(m, effect), nil
}

// difference shows the first lines that differ.
func difference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := 0; i < len(a) || i < len(b); i++ {
		x, y := "(end)", "(end)"
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			return fmt.Sprintf("line %d\nwant %s\ngot  %s", i+1, x, y)
		}
	}
	return ""
}
