package tokenquota

import "bytes"

// lines reads JSON texts of which each has a line of its own (application/x-ndjson), and gives them to the scanner.
func (s *scanner) lines(paths []path, b []byte) {
	for len(b) > 0 {
		n := bytes.IndexByte(b, '\n') + 1
		if n == 0 {
			s.write(paths, b)
			return
		}
		s.write(paths, b[:n])
		s.restart()
		b = b[n:]
	}
}

// field is where in a line of an event stream the reader is.
type field uint8

const (
	fieldName  field = iota // so far it is the beginning of "data"
	fieldSpace              // after "data:": one space is no part of the value
	fieldData
	fieldOther // of another name, or a comment
	numFields
)

// events reads a stream of server-sent events (WHATWG HTML, "Parsing an event stream"), and gives the data of each event to a scanner. The type has a fixed size.
type events struct {
	Scanner scanner
	Field   field
	// Name is how much of "data" the line's name has so far, Mark how much of a byte order mark the stream has at its beginning.
	Name, Mark uint8
	// Begun: the mark is behind, or there is none. AfterCR: the last byte was one, so a line feed belongs to it. HasData: the event has a line of data.
	Begun, AfterCR, HasData bool
}

const (
	dataName      = "data"
	byteOrderMark = "\xef\xbb\xbf"
)

// write takes the next piece of the stream.
func (e *events) write(paths []path, b []byte) {
	for len(b) > 0 {
		if !e.Begun {
			b = e.mark(b)
			continue
		}
		c := b[0]
		if e.AfterCR {
			e.AfterCR = false
			if c == '\n' {
				b = b[1:]
				continue
			}
		}
		switch {
		case c == '\r' || c == '\n':
			e.endLine(paths)
			e.AfterCR = c == '\r'
			b = b[1:]
		case e.Field == fieldData || e.Field == fieldOther:
			n := bytes.IndexAny(b, "\r\n")
			if n < 0 {
				n = len(b)
			}
			if e.Field == fieldData {
				e.Scanner.write(paths, b[:n])
			}
			b = b[n:]
		case e.Field == fieldSpace:
			e.Field = fieldData
			if c == ' ' {
				b = b[1:]
			}
		default:
			e.name(paths, c)
			b = b[1:]
		}
	}
}

// mark takes a byte order mark away at the beginning.
func (e *events) mark(b []byte) []byte {
	if b[0] == byteOrderMark[e.Mark] {
		if e.Mark++; int(e.Mark) == len(byteOrderMark) {
			e.Begun = true
		}
		return b[1:]
	}
	if e.Begun = true; e.Mark > 0 { // What looked like one is a name.
		e.Field = fieldOther
	}
	return b
}

// name takes a byte of a field's name.
func (e *events) name(paths []path, c byte) {
	switch {
	case int(e.Name) < len(dataName) && c == dataName[e.Name]:
		e.Name++
	case c == ':' && int(e.Name) == len(dataName):
		e.beginData(paths)
	default:
		e.Field = fieldOther
	}
}

// beginData begins a line of data; the lines of an event are one text, with line feeds in between.
func (e *events) beginData(paths []path) {
	if e.HasData {
		e.Scanner.write(paths, []byte{'\n'})
	}
	e.HasData, e.Field = true, fieldSpace
}

// endLine is after a line; an empty one ends the event.
func (e *events) endLine(paths []path) {
	switch {
	case e.Field == fieldName && e.Name == 0:
		e.Scanner.restart()
		e.HasData = false
	case e.Field == fieldName && int(e.Name) == len(dataName): // "data" without a colon is an empty line of data.
		e.beginData(paths)
	}
	e.Field, e.Name = fieldName, 0
}
