package tokenquota

func (s *scanner) beginKey(paths []path) {
	s.State, s.IsKey = inString, true
	for i := range paths {
		p := &s.Paths[i]
		p.Key = -1
		if int(p.Matched) < len(paths[i]) && s.Depth == uint16(p.Matched)+1 {
			p.Key = 0
		}
	}
}

// inString takes a byte of a string.
func (s *scanner) inString(paths []path, c byte) {
	switch {
	case c == '\\':
		s.State = inEscape
	case c == '"' && s.IsKey:
		for i := range paths {
			p := &s.Paths[i]
			p.Next = p.Key >= 0 && int(p.Key) == len(paths[i][p.Matched])
			p.Key = -1
		}
		s.State = wantColon
	case c == '"':
		s.endValue()
	case s.IsKey:
		s.compare(paths, uint16(c), c < 0x80)
	}
}

// compare compares the next character of a key. Names are ASCII, so no other character is one of theirs.
func (s *scanner) compare(paths []path, c uint16, ascii bool) {
	for i := range paths {
		p := &s.Paths[i]
		if p.Key < 0 {
			continue
		}
		name := paths[i][p.Matched]
		if ascii && int(p.Key) < len(name) && uint16(name[p.Key]) == c {
			p.Key++
		} else {
			p.Key = -1
		}
	}
}

// escape takes the byte after a backslash.
func (s *scanner) escape(paths []path, c byte) {
	s.State = inString
	switch c {
	case 'u':
		s.State, s.Digits, s.Unicode = inUnicode, 0, 0
	case '"', '\\', '/':
		if s.IsKey {
			s.compare(paths, uint16(c), true)
		}
	case 'b', 'f', 'n', 'r', 't': // No name has a control character.
		if s.IsKey {
			s.compare(paths, 0, false)
		}
	default:
		s.State = malformed
	}
}

// unicode takes a digit of \uXXXX.
func (s *scanner) unicode(paths []path, c byte) {
	var v uint16
	switch {
	case c >= '0' && c <= '9':
		v = uint16(c - '0')
	case c >= 'a' && c <= 'f':
		v = uint16(c-'a') + 10
	case c >= 'A' && c <= 'F':
		v = uint16(c-'A') + 10
	default:
		s.State = malformed
		return
	}
	s.Unicode = s.Unicode<<4 | v
	if s.Digits++; s.Digits < 4 {
		return
	}
	s.State = inString
	if s.IsKey {
		s.compare(paths, s.Unicode, s.Unicode < 0x80)
	}
}
