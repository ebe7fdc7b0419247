// Package telemetry is what both processes tell of themselves: the JSON log.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
	"go.uber.org/zap/zapcore"
)

// Logger writes one JSON object per line with the fields timestamp, level, component, request_id, message and metadata. A field named request_id
// becomes the line's request_id; all others go to metadata. Logging never waits for the writer: see Writer.
type Logger struct {
	*zap.Logger
	level  zap.AtomicLevel
	writer *Writer
}

// NewLogger makes the log of a component ("kernel", "worker"). level is debug, info, warn or error. Close flushes it; w stays the caller's.
func NewLogger(component, level string, w io.Writer) (*Logger, error) {
	l := &Logger{level: zap.NewAtomicLevel()}
	if err := l.SetLevel(level); err != nil {
		return nil, err
	}
	signal.Ignore(syscall.SIGPIPE) // The end of a process whose log is a pipe that nobody reads any more (os/signal, SIGPIPE). With this it is an error of the writer.
	l.writer = NewWriter(w)
	c := newCore(component, l.level, l.writer)
	l.writer.resumed = func(lost uint64) []byte {
		record, _ := c.encode(zapcore.Entry{Level: zapcore.WarnLevel, Time: time.Now(), Message: "log records were lost"}, []zapcore.Field{zap.Uint64("lost", lost)})
		return record
	}
	l.Logger = zap.New(c)
	return l, nil
}

// SetLevel changes the level of the logger and of all that were made from it.
func (l *Logger) SetLevel(level string) error {
	switch level {
	case "debug":
		l.level.SetLevel(zapcore.DebugLevel)
	case "info":
		l.level.SetLevel(zapcore.InfoLevel)
	case "warn":
		l.level.SetLevel(zapcore.WarnLevel)
	case "error":
		l.level.SetLevel(zapcore.ErrorLevel)
	default:
		return fmt.Errorf("set log level %q: want debug, info, warn or error", level)
	}
	return nil
}

// Level is the least level that is logged.
func (l *Logger) Level() string { return l.level.Level().String() }

// Slog is the same log for code that knows only the standard library.
func (l *Logger) Slog() *slog.Logger {
	return slog.New(zapslog.NewHandler(l.Core()))
}

// Lost is how many records were lost because the writer was too slow or failed.
func (l *Logger) Lost() uint64 { return l.writer.Lost() }

// Flush waits, at most a second, until what was logged is written.
func (l *Logger) Flush() error { return l.writer.Flush(time.Second) }

// Close writes what is pending, waits at most a second for it, and drops all later records.
func (l *Logger) Close() error { return l.writer.Close(time.Second) }
