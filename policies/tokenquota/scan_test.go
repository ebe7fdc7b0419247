package tokenquota

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var testPaths = []path{{"usage", "total"}, {"a"}, {"a", "a", "b"}}

// found is what a scanner has found, by path; -1 is nothing.
func found(s *scanner, paths []path) (list []int64) {
	for i := range paths {
		v := int64(-1)
		if s.Paths[i].Found {
			v = s.Paths[i].Value
		}
		list = append(list, v)
	}
	return list
}

// inOrder reads a JSON text with encoding/json, and returns the last whole number at each path.
func inOrder(t *testing.T, text []byte, paths []path) []int64 {
	list := slices.Repeat([]int64{-1}, len(paths))
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var walk func(names []string, reachable, outermost bool)
	walk = func(names []string, reachable, outermost bool) {
		token, err := d.Token()
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		switch v := token.(type) {
		case json.Number:
			for i, p := range paths {
				if reachable && slices.Equal(p, path(names)) && strings.Trim(v.String(), "0123456789") == "" {
					n, _ := new(big.Int).SetString(v.String(), 10)
					list[i] = maxUsage
					if n.IsInt64() {
						list[i] = min(n.Int64(), maxUsage)
					}
				}
			}
		case json.Delim:
			for d.More() {
				if v == '[' {
					walk(names, outermost, false) // The elements of the outermost list are texts of their own.
					continue
				}
				key, err := d.Token()
				if err != nil {
					t.Fatalf("%q: %v", text, err)
				}
				walk(append(names[:len(names):len(names)], key.(string)), reachable, false)
			}
			if _, err := d.Token(); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
		}
	}
	walk(nil, true, true)
	return list
}

func scanned(text []byte, paths []path, cuts ...int) []int64 {
	var s scanner
	last := 0
	for _, c := range cuts {
		s.write(paths, text[last:c])
		last = c
	}
	s.write(paths, text[last:])
	return found(&s, paths)
}

// depth is how deep the containers of a JSON text nest.
func depth(text []byte) (deepest int) {
	d, now := json.NewDecoder(bytes.NewReader(text)), 0
	for {
		token, err := d.Token()
		if err != nil {
			return deepest
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			now++
			deepest = max(deepest, now)
		case json.Delim('}'), json.Delim(']'):
			now--
		}
	}
}

func FuzzJSON(f *testing.F) {
	for _, text := range []string{
		`{"usage":{"total":12}}`, `{"usage":{"total":12},"usage":{"total":3}}`, `{"a":{"a":{"b":1}},"a":7}`, `{"\u0061":1e3,"x":"\"a\":5"}`, `[{"a":1}]`, `[{"a":1}, {"a":2} ,[{"a":3}],{"b":[{"a":4}]}]`, `[]`, `[1,{"a":5}`, `{"usage":{"tot\/al":1,"total\ud83d":2,"\t":3}}`,
		`{"a":{"a":[{"b":1}],"b":2}}`, `-0.5e+3`, `{"a":{"b":{"a":{"b":1}}},"a":99999999999999999999}`, "\ufeff{}", `{"a":01}`, `{"":{}}`,
	} {
		f.Add([]byte(text), uint8(3))
	}
	f.Fuzz(func(t *testing.T, text []byte, cut uint8) {
		whole := scanned(text, testPaths)
		if got := scanned(text, testPaths, min(int(cut), len(text))); !slices.Equal(got, whole) {
			t.Errorf("%q cut at %d: %v, want %v", text, cut, got, whole)
		}
		var s scanner
		for _, c := range text {
			s.write(testPaths, []byte{c})
		}
		if got := found(&s, testPaths); !slices.Equal(got, whole) {
			t.Errorf("%q in bytes: %v, want %v", text, got, whole)
		}
		if !json.Valid(text) || depth(text) > maxDepth {
			return
		}
		// A number ends when something follows it.
		if want := inOrder(t, text, testPaths); !slices.Equal(whole, want) {
			t.Errorf("%q: %v, want %v", text, whole, want)
		}
	})
}

// dataOf reads an event stream in the plainest way, as the standard has it but for the event that the end cuts off: that one is returned too.
func dataOf(stream string) (events []string) {
	stream = strings.TrimPrefix(stream, byteOrderMark)
	lines := regexp.MustCompile("\r\n|\r|\n").Split(stream, -1)
	var data []string
	for _, line := range lines {
		if line == "" {
			events, data = append(events, strings.Join(data, "\n")), nil
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		if field == dataName {
			data = append(data, strings.TrimPrefix(value, " "))
		}
	}
	return append(events, strings.Join(data, "\n"))
}

func FuzzEvents(f *testing.F) {
	for _, stream := range []string{
		"data: {\"a\":1}\n\n", "\xef\xbb\xbfdata:{\"a\":1}\r\n\r\ndata: {\"a\":2}\r\r", "data: {\ndata: \"a\":\ndata\ndata: 4}\n\n", ": data\nid: 1\ndatax: {\"a\":1}\ndat: {\"a\":1}\n\n", "data:  {\"a\":1}\n", "\xef\xbbdata: {\"a\":1}\n\n",
		" data: {\"a\":1}\n\ndata : {\"a\":1}\n\n", "data: {\"a\":1}\r", "data: [DONE]\n\n", "data: {\"a\":\"\ndata: \"}\n\n", "\n\xef\xbb\xbfdata: {\"a\":1}\n\n",
	} {
		f.Add(stream, uint8(7))
	}
	f.Fuzz(func(t *testing.T, stream string, cut uint8) {
		var reference scanner
		for _, data := range dataOf(stream) {
			reference.restart()
			reference.write(testPaths, []byte(data))
		}
		want := found(&reference, testPaths)
		n := min(int(cut), len(stream))
		for name, chunks := range map[string][]string{"whole": {stream}, "two": {stream[:n], stream[n:]}, "bytes": strings.SplitAfter(stream, "")} {
			var e events
			for _, chunk := range chunks {
				e.write(testPaths, []byte(chunk))
			}
			if got := found(&e.Scanner, testPaths); !slices.Equal(got, want) {
				t.Errorf("%q (%s): %v, want %v", stream, name, got, want)
			}
		}
	})
}

// Whatever the state says, it is refused or does no harm; what encode writes is read as it was.
func FuzzState(f *testing.F) {
	var d reading
	d.Events.Scanner.write(testPaths, []byte(`{"usage":{"tot`))
	f.Add(d.encode(), []byte(`al":12}}`))
	f.Add(make([]byte, readingSize), []byte("{"))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, state, text []byte) {
		var d reading
		if d.decode(state, testPaths) != nil {
			return
		}
		d.Events.Scanner.write(testPaths, text)
		d.Events.write(testPaths, text)
		d.Events.Scanner.lines(testPaths, text)
		terms := []term{{0, 2, maxWeight * thousand, true}, {2, 3, thousand, false}}
		if usage, _ := sum(terms, &d.Events.Scanner); usage < 0 || usage > maxUsage {
			t.Errorf("usage %d", usage)
		}
		var again reading
		if err := again.decode(d.encode(), testPaths); err != nil || again != d {
			t.Errorf("%+v is read as %+v, %v", d, again, err)
		}
	})
}

// documents draws JSON texts with the names of the paths in them.
func documents(depth int) *rapid.Generator[string] {
	leaf := rapid.SampledFrom([]string{"1", "20", "0", "null", "true", `"a"`, `"\"a\":9"`, "-3", "1.5", "2e2", "{}", "[]", "123456789012345"})
	if depth == 0 {
		return leaf
	}
	inner := documents(depth - 1)
	return rapid.Custom(func(t *rapid.T) string {
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			return leaf.Draw(t, "leaf")
		case 1:
			return "[" + strings.Join(rapid.SliceOfN(inner, 0, 3).Draw(t, "items"), " ,") + "]"
		}
		var members []string
		for range rapid.IntRange(0, 4).Draw(t, "members") {
			key := rapid.SampledFrom([]string{"usage", "total", "a", "b", "tot", "totals", `\u0061`, `us\u0061ge`, "é", `\\`, ""}).Draw(t, "key")
			members = append(members, `"`+key+`": `+inner.Draw(t, "value"))
		}
		return "{" + strings.Join(members, ",\n") + "}"
	})
}

// The state goes from chunk to chunk as bytes; whichever way a text is cut, the same is found as encoding/json finds.
func TestCutsDoNotMatter(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		text := []byte(documents(4).Draw(r, "text") + "\n")
		want := inOrder(t, text, testPaths)
		cuts := rapid.SliceOfN(rapid.IntRange(0, len(text)), 0, 6).Draw(r, "cuts")
		slices.Sort(cuts)
		var state []byte
		var d reading
		last := 0
		for _, c := range append(cuts, len(text)) {
			d = reading{}
			if len(state) > 0 {
				if err := d.decode(state, testPaths); err != nil {
					r.Fatal(err)
				}
			}
			d.Events.Scanner.write(testPaths, text[last:c])
			state, last = d.encode(), c
		}
		if got := found(&d.Events.Scanner, testPaths); !slices.Equal(got, want) {
			r.Fatalf("%s: %v, want %v", text, got, want)
		}
	})
}

func TestStateIsSmall(t *testing.T) {
	if n := binary.Size(reading{}); n != readingSize || n < 1 || n > 256 {
		t.Errorf("the state has %d bytes", n)
	}
	// Too deep is not read, and takes no more room.
	var s scanner
	s.write(testPaths, []byte(strings.Repeat("[", maxDepth+1)+`{"a":1`))
	if s.State != malformed || s.Depth != maxDepth {
		t.Errorf("%+v", s)
	}
}

// FuzzLines: each line is a text of its own, wherever the chunks are cut.
func FuzzLines(f *testing.F) {
	for _, text := range []string{
		"{\"a\":1}\n[{\"a\":2}]\r\n{\"a\":", "nonsense\n{\"a\":1}\n\n{\"usage\":{\"total\":4}}",
		"{\"usage\":{\n\"total\":4}}\n", "[{\"a\":1}\n,{\"a\":2}]\n",
	} {
		f.Add(text, uint8(3))
	}
	f.Fuzz(func(t *testing.T, text string, cut uint8) {
		var reference scanner
		for _, line := range strings.SplitAfter(text, "\n") {
			reference.write(testPaths, []byte(line))
			if strings.HasSuffix(line, "\n") {
				reference.restart()
			}
		}
		want := found(&reference, testPaths)
		n := min(int(cut), len(text))
		for name, chunks := range map[string][]string{
			"whole": {text}, "two": {text[:n], text[n:]}, "bytes": strings.SplitAfter(text, ""),
		} {
			var s scanner
			for _, chunk := range chunks {
				s.lines(testPaths, []byte(chunk))
			}
			if got := found(&s, testPaths); !slices.Equal(got, want) {
				t.Errorf("%q (%s): %v, want %v", text, name, got, want)
			}
		}
	})
}
