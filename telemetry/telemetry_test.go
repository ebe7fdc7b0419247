package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type line struct {
	Timestamp string         `json:"timestamp"`
	Level     string         `json:"level"`
	Component string         `json:"component"`
	RequestID string         `json:"request_id"`
	Message   string         `json:"message"`
	Metadata  map[string]any `json:"metadata"`
}

// record logs through f and returns the lines, refusing unknown fields.
func record(t *testing.T, level string, f func(*Logger)) []line {
	t.Helper()
	var out bytes.Buffer
	l, err := NewLogger("kernel", level, &out)
	if err != nil {
		t.Fatal(err)
	}
	f(l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var lines []line
	for s := range strings.Lines(out.String()) {
		var ln line
		d := json.NewDecoder(strings.NewReader(s))
		d.DisallowUnknownFields()
		if err := d.Decode(&ln); err != nil {
			t.Fatalf("line %q: %v", s, err)
		}
		lines = append(lines, ln)
	}
	return lines
}

func TestLine(t *testing.T) {
	tests := []struct {
		name     string
		log      func(*Logger)
		level    string
		id       string
		message  string
		metadata string
	}{
		{"bare", func(l *Logger) { l.Info("up") }, "info", "", "up", `{}`},
		{"fields", func(l *Logger) { l.Warn("down", zap.String("worker", "w1"), zap.Int("n", 2)) }, "warn", "", "down", `{"n":2,"worker":"w1"}`},
		{"request id", func(l *Logger) { l.Error("x", zap.Int("a", 1), zap.String("request_id", "r1"), zap.Int("b", 2)) }, "error", "r1", "x", `{"a":1,"b":2}`},
		{"with", func(l *Logger) { l.With(zap.String("request_id", "r1"), zap.Int("a", 1)).Info("x", zap.Int("b", 2)) }, "info", "r1", "x", `{"a":1,"b":2}`},
		{"last request id wins", func(l *Logger) { l.With(zap.String("request_id", "r1")).Info("x", zap.String("request_id", "r2")) }, "info", "r2", "x", `{}`},
		{"with twice from one parent", func(l *Logger) {
			p := l.With(zap.Int("p", 0))
			a := p.With(zap.Int("a", 1))
			p.With(zap.Int("b", 2))
			a.Info("x")
		}, "info", "", "x", `{"a":1,"p":0}`},
		{"a field named like a line's", func(l *Logger) { l.Info("x", zap.String("level", "fake"), zap.String("message", "y")) }, "info", "", "x", `{"level":"fake","message":"y"}`},
		{"newline in message", func(l *Logger) { l.Info("a\n{\"level\":\"info\"}") }, "info", "", "a\n{\"level\":\"info\"}", `{}`},
		{"error", func(l *Logger) { l.Error("x", zap.Error(io.EOF)) }, "error", "", "x", `{"error":"EOF"}`},
		{"panic is an error", func(l *Logger) {
			defer func() { _ = recover() }()
			l.Panic("x")
		}, "error", "", "x", `{}`},
		{"slog", func(l *Logger) { l.Slog().Warn("x", "request_id", "r1", "a", 1) }, "warn", "r1", "x", `{"a":1}`},
		{"slog with", func(l *Logger) { l.Slog().With("request_id", "r1", "a", 1).Info("x") }, "info", "r1", "x", `{"a":1}`},
		{"slog group", func(l *Logger) { l.Slog().WithGroup("g").Info("x", slog.String("request_id", "nested")) }, "info", "", "x", `{"g":{"request_id":"nested"}}`},
	}
	stamp := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			lines := record(t, "info", tt.log)
			if len(lines) != 1 {
				t.Fatalf("%d lines, want 1", len(lines))
			}
			got := lines[0]
			md, _ := json.Marshal(got.Metadata)
			if got.Level != tt.level || got.Component != "kernel" || got.RequestID != tt.id || got.Message != tt.message || string(md) != tt.metadata {
				t.Errorf("got %+v, metadata %s", got, md)
			}
			if !stamp.MatchString(got.Timestamp) {
				t.Errorf("timestamp %q", got.Timestamp)
			}
		})
	}
}

func TestLevel(t *testing.T) {
	lines := record(t, "warn", func(l *Logger) {
		s := l.Slog()
		l.Info("no")
		s.Info("no")
		if err := l.SetLevel("debug"); err != nil {
			t.Error(err)
		}
		l.Debug("yes")
		s.Debug("yes")
		if err := l.SetLevel("loud"); err == nil {
			t.Error("an unknown level was taken")
		}
	})
	if len(lines) != 2 || lines[0].Message != "yes" || lines[0].Level != "debug" || lines[1].Message != "yes" {
		t.Errorf("got %+v", lines)
	}
	if _, err := NewLogger("kernel", "", io.Discard); err == nil {
		t.Error("an empty level was taken")
	}
}

// gate blocks each write until it is opened.
type gate struct {
	open chan struct{}
	mu   sync.Mutex
	got  bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.got.Write(p)
}

func TestBlockedWriter(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	l, err := NewLogger("kernel", "info", g)
	if err != nil {
		t.Fatal(err)
	}
	const n = 3000
	big := strings.Repeat("x", 1000)
	for range n {
		l.Info(big) // Would wait for ever if the log waited for its writer.
	}
	lost := l.Lost()
	if lost == 0 || lost > n {
		t.Fatalf("%d records lost of %d", lost, n)
	}
	if err := l.writer.Flush(time.Millisecond); err == nil {
		t.Error("flushing a blocked writer succeeded")
	}
	close(g.open)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l.Info("after close")
	if l.Lost() != lost+1 {
		t.Errorf("lost %d, want %d", l.Lost(), lost+1)
	}
	if got := uint64(bytes.Count(g.got.Bytes(), []byte{'\n'})); got+lost != n+1 { // One line tells of the loss.
		t.Errorf("%d lines written and %d lost, want %d together", got, lost, n)
	}
}

// full takes a limited number of bytes, like a disk.
type full struct {
	room int
	got  bytes.Buffer
}

func (f *full) Write(p []byte) (int, error) {
	n := min(f.room, len(p))
	f.room -= n
	f.got.Write(p[:n])
	if n < len(p) {
		return n, errors.New("no space left on device")
	}
	return n, nil
}

func TestFullDisk(t *testing.T) {
	disk := &full{room: 4}
	w := NewWriter(disk)
	step := func(s string) {
		w.append([]byte(s))
		if err := w.Flush(time.Second); err != nil {
			t.Fatal(err)
		}
	}
	step("one\n")
	disk.room = 2
	step("two\n")
	step("three\n")
	disk.room = 100
	step("four\n")
	if err := w.Close(time.Second); err != nil {
		t.Fatal(err)
	}
	if got, want := disk.got.String(), "one\ntw\nfour\n"; got != want {
		t.Errorf("wrote %q, want %q", got, want)
	}
	if w.Lost() != 2 {
		t.Errorf("lost %d, want 2", w.Lost())
	}
}

// TestLogTellsWhatIsMissing: once it can be written again, a line says how many were lost.
func TestLogTellsWhatIsMissing(t *testing.T) {
	disk := &full{}
	l, err := NewLogger("kernel", "info", disk)
	if err != nil {
		t.Fatal(err)
	}
	step := func(room int, message string) {
		t.Helper()
		disk.room = room
		l.Info(message)
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	step(1000, "one")
	step(0, "two")
	step(5, "three")
	step(1000, "four")
	step(1000, "five")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var messages []string
	var lost float64
	for text := range strings.Lines(disk.got.String()) {
		var ln line
		if json.Unmarshal([]byte(text), &ln) != nil {
			messages = append(messages, "torn")
			continue
		}
		messages = append(messages, ln.Message)
		if n, ok := ln.Metadata["lost"].(float64); ok {
			lost += n
		}
	}
	if got := strings.Join(messages, ", "); got != "one, torn, log records were lost, four, five" || lost != 2 || l.Lost() != 2 {
		t.Errorf("the log has %s; %v lost, by its own word %v", got, l.Lost(), lost)
	}
}

func TestConcurrentLogging(t *testing.T) {
	lines := record(t, "info", func(l *Logger) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 100 {
					l.Info("x", zap.String("request_id", "r"))
				}
			})
		}
		wg.Wait()
	})
	if len(lines) != 800 {
		t.Errorf("%d lines, want 800", len(lines))
	}
}

func TestThrottle(t *testing.T) {
	now := time.Unix(0, 0)
	th := NewThrottle(time.Minute, func() time.Time { return now })
	expect := func(key string, suppressed int, ok bool) {
		t.Helper()
		if s, o := th.Allow(key); s != suppressed || o != ok {
			t.Errorf("Allow(%q) = %d, %v; want %d, %v", key, s, o, suppressed, ok)
		}
	}
	expect("a", 0, true)
	expect("a", 0, false)
	expect("b", 0, true)
	now = now.Add(59 * time.Second)
	expect("a", 0, false)
	now = now.Add(time.Second)
	expect("a", 2, true)
	expect("a", 0, false)
}

func TestThrottleIsBounded(t *testing.T) {
	now := time.Unix(0, 0)
	th := NewThrottle(time.Minute, func() time.Time { return now })
	key := func(i int) string { return strings.Repeat("k", i+1) }
	for i := range maxThrottleKeys {
		if _, ok := th.Allow(key(i)); !ok {
			t.Fatal("a new key was suppressed")
		}
	}
	allowed := 0
	for i := range 10 {
		if _, ok := th.Allow(key(maxThrottleKeys + i)); ok {
			allowed++
		}
	}
	if allowed != 1 {
		t.Errorf("%d lines beyond the bound, want 1", allowed)
	}
	now = now.Add(time.Minute)
	if _, ok := th.Allow(key(maxThrottleKeys + 50)); !ok || len(th.keys) > maxThrottleKeys {
		t.Errorf("old keys were not freed: %d", len(th.keys))
	}
}
