package telemetry

import (
	"bytes"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const requestIDKey = "request_id"

// core is a zapcore.Core that nests all fields but request_id under metadata.
type core struct {
	zapcore.LevelEnabler
	component string
	encoder   zapcore.Encoder
	writer    *Writer
	// fields are those of With, request_id not among them.
	fields []zapcore.Field
	// requestID is that of With.
	requestID string
	// nested is true when a namespace is open in fields: a request_id that comes later is not the line's.
	nested bool
}

func newCore(component string, level zapcore.LevelEnabler, w *Writer) *core {
	return &core{LevelEnabler: level, component: component, writer: w, encoder: zapcore.NewJSONEncoder(zapcore.EncoderConfig{
		TimeKey:        "timestamp",
		LevelKey:       "level",
		MessageKey:     "message",
		LineEnding:     "\n",
		EncodeLevel:    encodeLevel,
		EncodeTime:     encodeTime,
		EncodeDuration: zapcore.StringDurationEncoder,
	})}
}

// encodeLevel knows four levels: what is above error is one.
func encodeLevel(l zapcore.Level, enc zapcore.PrimitiveArrayEncoder) {
	enc.AppendString(min(l, zapcore.ErrorLevel).String())
}

func encodeTime(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
	enc.AppendString(t.UTC().Format("2006-01-02T15:04:05.000Z07:00"))
}

// lift takes request_id out of fields: the last one before a namespace counts.
func (c *core) lift(fields []zapcore.Field) (requestID string, rest []zapcore.Field, nested bool) {
	requestID, nested = c.requestID, c.nested
	rest = slices.Clip(c.fields)
	for _, f := range fields {
		if f.Key == requestIDKey && f.Type == zapcore.StringType && !nested {
			requestID = f.String
			continue
		}
		nested = nested || f.Type == zapcore.NamespaceType
		rest = append(rest, f)
	}
	return requestID, rest, nested
}

// With implements zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	clone := *c
	clone.requestID, clone.fields, clone.nested = c.lift(fields)
	return &clone
}

// Check implements zapcore.Core.
func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// encode makes the line of an entry.
func (c *core) encode(e zapcore.Entry, fields []zapcore.Field) ([]byte, error) {
	requestID, rest, _ := c.lift(fields)
	all := make([]zapcore.Field, 0, len(rest)+3)
	all = append(all, zap.String("component", c.component), zap.String(requestIDKey, requestID), zap.Namespace("metadata"))
	buf, err := c.encoder.EncodeEntry(e, append(all, rest...))
	if err != nil {
		return nil, err
	}
	defer buf.Free()
	return bytes.Clone(buf.Bytes()), nil
}

// Write implements zapcore.Core.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	line, err := c.encode(e, fields)
	if err != nil {
		return err
	}
	c.writer.append(line)
	if e.Level > zapcore.ErrorLevel {
		return c.Sync() // The process may end after this line.
	}
	return nil
}

// Sync implements zapcore.Core: it waits a bounded time.
func (c *core) Sync() error { return c.writer.Flush(time.Second) }

var _ zapcore.Core = (*core)(nil)
