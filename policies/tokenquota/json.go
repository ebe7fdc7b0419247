package tokenquota

// Bounds of the scanner's state, which travels from chunk to chunk.
const (
	maxPaths = 8
	maxNames = 8   // of a path
	maxDepth = 256 // of containers; what is deeper is not read
	maxUsage = 1_000_000_000_000
)

// path is the names of nested members, such as usage and total_tokens.
type path []string

// lexeme is what the scanner is inside of, or expects.
type lexeme uint8

const (
	wantValue      lexeme = iota
	wantValueOrEnd        // after '['
	wantKey               // after ',' in an object
	wantKeyOrEnd          // after '{'
	wantColon
	wantComma // after a value in a container
	inString
	inEscape
	inUnicode // the four digits after \u
	inNumber
	inLiteral // true, false, null
	atEnd     // after the outermost value
	malformed
	numLexemes
)

// scanner finds the numbers that stand at given paths of a JSON text (RFC 8259), which comes in pieces. If the text is a list, each of its elements is a
// text of its own: so do some answers come that tell their usage again and again. It is lenient: it has to find in every legal text what is there, and may find something
// in what is none. Of a member that is there several times, the last counts.
//
// The type has a fixed size; encoding/binary writes it.
type scanner struct {
	State lexeme
	IsKey bool // of a string
	// List: the text is a list, and State is of one of its elements.
	List bool
	// Digits and Unicode are of an escape \uXXXX.
	Digits  uint8
	Unicode uint16
	// Number is the value of a number so far, Whole whether it is a whole one that counts.
	Number int64
	Whole  bool
	Depth  uint16
	// Objects has a bit for each open container: 1 for an object.
	Objects [maxDepth / 8]byte
	Paths   [maxPaths]progress
}

// progress is how far one path is found.
type progress struct {
	// Matched is how many of the path's names lead to the open objects: those of depth 1 to Matched+1.
	Matched uint8
	// Next: the value that comes is that of the path's next name.
	Next bool
	// Key is how many bytes of the name were the same as the key's, -1 if the key is another.
	Key int16
	// Found and Value are the last number that stood at the path.
	Found bool
	Value int64
}

// restart is for the next text. What was found stays.
func (s *scanner) restart() {
	old := s.Paths
	*s = scanner{}
	for i := range old {
		s.Paths[i].Found, s.Paths[i].Value = old[i].Found, old[i].Value
	}
}

// write takes the next piece of the text.
func (s *scanner) write(paths []path, b []byte) {
	for i := 0; i < len(b); i++ {
		if s.State == malformed {
			return
		}
		if s.State == inString && !s.IsKey {
			// Fast path: most of a text is values.
			for i < len(b) && b[i] != '"' && b[i] != '\\' {
				i++
			}
			if i == len(b) {
				return
			}
		}
		s.next(paths, b[i])
	}
}

// next takes a byte.
func (s *scanner) next(paths []path, c byte) {
	switch s.State {
	case inString:
		s.inString(paths, c)
	case inEscape:
		s.escape(paths, c)
	case inUnicode:
		s.unicode(paths, c)
	case inNumber:
		if !s.digit(c) {
			s.endNumber(paths)
			s.next(paths, c)
		}
	case inLiteral:
		if c < 'a' || c > 'z' {
			s.endValue()
			s.next(paths, c)
		}
	default:
		if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			s.structure(paths, c)
		}
	}
}

// structure takes a byte between values.
func (s *scanner) structure(paths []path, c byte) {
	switch s.State {
	case wantValueOrEnd, wantValue:
		switch {
		case c == '[' && s.Depth == 0 && !s.List:
			s.List, s.State = true, wantValueOrEnd
		case c == ']' && s.State == wantValueOrEnd && s.Depth == 0:
			s.List, s.State = false, atEnd
		case c == ']' && s.State == wantValueOrEnd:
			s.close(false)
		default:
			s.begin(c)
		}
	case wantKeyOrEnd, wantKey:
		switch {
		case c == '"':
			s.beginKey(paths)
		case c == '}' && s.State == wantKeyOrEnd:
			s.close(true)
		default:
			s.State = malformed
		}
	case wantColon:
		s.State = wantValue
		if c != ':' {
			s.State = malformed
		}
	case wantComma:
		switch {
		case c == ',' && s.inObject():
			s.State = wantKey
		case c == ',':
			s.State = wantValue
		case c == ']' || c == '}':
			s.close(c == '}')
		default:
			s.State = malformed
		}
	default: // atEnd
		switch {
		case c == ',' && s.List:
			s.restart()
			s.List = true
		case c == ']' && s.List:
			s.List = false
		default: // There is more than one value.
			s.State = malformed
		}
	}
}

// begin begins a value.
func (s *scanner) begin(c byte) {
	switch {
	case c == '{' || c == '[':
		s.open(c == '{')
	case c == '"':
		s.State, s.IsKey = inString, false
	case c == '-' || c >= '0' && c <= '9':
		s.State, s.Number, s.Whole = inNumber, 0, true
		s.digit(c)
	case c == 't' || c == 'f' || c == 'n':
		s.State = inLiteral
	default:
		s.State = malformed
	}
}

func (s *scanner) open(object bool) {
	if s.Depth == maxDepth {
		s.State = malformed
		return
	}
	bit := byte(1) << (s.Depth % 8)
	s.State = wantValueOrEnd
	s.Objects[s.Depth/8] &^= bit
	if object {
		s.State = wantKeyOrEnd
		s.Objects[s.Depth/8] |= bit
	}
	s.Depth++
	for i := range s.Paths {
		p := &s.Paths[i]
		if p.Next && object {
			p.Matched++
		}
		p.Next, p.Key = false, -1
	}
}

func (s *scanner) close(object bool) {
	if s.Depth == 0 || s.inObject() != object {
		s.State = malformed
		return
	}
	s.Depth--
	for i := range s.Paths {
		// The object at depth Matched+1 is closed.
		if p := &s.Paths[i]; p.Matched > 0 && s.Depth == uint16(p.Matched) {
			p.Matched--
		}
	}
	s.endValue()
}

func (s *scanner) inObject() bool {
	return s.Depth > 0 && s.Objects[(s.Depth-1)/8]&(1<<((s.Depth-1)%8)) != 0
}

// endValue is after a value of any kind.
func (s *scanner) endValue() {
	for i := range s.Paths {
		s.Paths[i].Next = false
	}
	s.State = wantComma
	if s.Depth == 0 {
		s.State = atEnd
	}
}

// digit takes a byte of a number, and reports whether it is one.
func (s *scanner) digit(c byte) bool {
	switch {
	case c >= '0' && c <= '9':
		s.Number = min(s.Number*10+int64(c-'0'), maxUsage)
	case c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E':
		s.Whole = false
	default:
		return false
	}
	return true
}

func (s *scanner) endNumber(paths []path) {
	for i := range paths {
		if p := &s.Paths[i]; p.Next && s.Whole && int(p.Matched)+1 == len(paths[i]) {
			p.Found, p.Value = true, s.Number
		}
	}
	s.endValue()
}
