package trace

import (
	"maps"
	"slices"
	"strings"
)

// Words are the names of an enumeration of the protocol as attributes have them: without their prefix, in lower case. They are looked up once: reflection has no place in a request.
type Words struct{ all []string }

// NewWords takes the names from the enumeration (NAME_name).
func NewWords(prefix string, names map[int32]string) Words {
	w := Words{make([]string, 1+slices.Max(slices.Collect(maps.Keys(names))))}
	for number, name := range names {
		w.all[number] = strings.ToLower(strings.TrimPrefix(name, prefix))
	}
	return w
}

// Of is the word for a number; "unknown" for one that has none.
func (w Words) Of(number int32) string {
	if number < 0 || int(number) >= len(w.all) || w.all[number] == "" {
		return "unknown"
	}
	return w.all[number]
}
