package strict

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Origins has, by the paths of values, the variables of the environment that the values came from.
type Origins map[string][]origin

type origin struct {
	name, value string
}

// longValue is from how many bytes on a value is replaced wherever it stands in a text, also within a word.
const longValue = 4

// add notes that the value at path has the variable in it.
func (o Origins) add(path, name, value string) { o[path] = append(o[path], origin{name, value}) }

// Names shows the variables of the value at path, and below it, as a file has them: ${A}${B}. It is empty for a value without variables.
func (o Origins) Names(path string) string {
	var names []string
	for at, variables := range o {
		for _, v := range variables {
			if within(at, path) && !slices.Contains(names, v.reference()) {
				names = append(names, v.reference())
			}
		}
	}
	slices.Sort(names)
	return strings.Join(names, "")
}

func (v origin) reference() string { return "${" + v.name + "}" }

// Hide replaces the values of variables in a text about what stands at path by the names of the variables: those of the value itself, of what is below it, and of what it is part of.
func (o Origins) Hide(path, text string) string {
	for at, variables := range o {
		// What is shown of the value itself may be cut, changed to lower case or otherwise derived: no quoted text of the first part of the message stays.
		if within(path, at) {
			text = hideQuoted(text, variables[0])
		}
		if within(path, at) || within(at, path) {
			for _, v := range variables {
				text = v.hide(text)
			}
		}
	}
	return text
}

// within reports whether path is at, or below it.
func within(path, at string) bool {
	rest, ok := strings.CutPrefix(path, at)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// hideQuoted replaces the quoted texts before the part of a message that says what is expected.
func hideQuoted(text string, v origin) string {
	end := len(text)
	for _, mark := range []string{"; ", ", expected "} {
		if i := unquotedIndex(text, mark); i >= 0 {
			end = min(end, i)
		}
	}
	var b strings.Builder
	for rest := text[:end]; ; {
		i := strings.IndexByte(rest, '"')
		if i < 0 {
			b.WriteString(rest)
			break
		}
		quoted, err := strconv.QuotedPrefix(rest[i:])
		if err != nil { // A quote that does not end: nothing after it is shown.
			b.WriteString(rest[:i] + strconv.Quote(v.reference()))
			break
		}
		b.WriteString(rest[:i])
		if strings.Contains(quoted, "${") { // It is the text of the file.
			b.WriteString(quoted)
		} else {
			b.WriteString(strconv.Quote(v.reference()))
		}
		rest = rest[i+len(quoted):]
	}
	return b.String() + text[end:]
}

// unquotedIndex is where mark stands outside of quoted texts, or -1.
func unquotedIndex(text, mark string) int {
	for i := 0; i < len(text); {
		if text[i] == '"' {
			quoted, err := strconv.QuotedPrefix(text[i:])
			if err != nil {
				return -1
			}
			i += len(quoted)
			continue
		}
		if strings.HasPrefix(text[i:], mark) {
			return i
		}
		i++
	}
	return -1
}

// hide replaces the value in a text, as it is and as quotes show it. A short one is replaced only where it is a word.
func (v origin) hide(text string) string {
	if v.value == "" {
		return text
	}
	quoted := strconv.Quote(v.value)
	for _, form := range []string{v.value, quoted[1 : len(quoted)-1]} {
		if len(form) >= longValue {
			text = strings.ReplaceAll(text, form, v.reference())
			continue
		}
		var b strings.Builder
		for before := rune(-1); ; {
			i := strings.Index(text, form)
			if i < 0 {
				b.WriteString(text)
				break
			}
			if i > 0 {
				before, _ = utf8.DecodeLastRuneInString(text[:i])
			}
			after, size := utf8.DecodeRuneInString(text[i+len(form):])
			if b.WriteString(text[:i]); inWord(before) || size > 0 && inWord(after) {
				b.WriteString(form)
			} else {
				b.WriteString(v.reference())
			}
			before, _ = utf8.DecodeLastRuneInString(form)
			text = text[i+len(form):]
		}
		text = b.String()
	}
	return text
}

func inWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_' }
