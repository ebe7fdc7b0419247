package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Error is one mistake in a file.
type Error struct {
	Pos Pos
	// Problem is what is wrong and what is legal, as in "is a list; legal is a mapping".
	Problem string
}

// Error prints FILE:LINE: PATH: PROBLEM. What is not known is left out.
func (e Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Pos.File)
	if e.Pos.Line > 0 {
		b.WriteString(":" + strconv.Itoa(e.Pos.Line))
	}
	if e.Pos.Path != "" {
		b.WriteString(": " + e.Pos.Path)
	}
	b.WriteString(": " + e.Problem)
	return b.String()
}

// Errors are all mistakes of one or several files.
type Errors []Error

// Error prints one line for each mistake.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Add appends a mistake.
func (e *Errors) Add(pos Pos, format string, args ...any) {
	*e = append(*e, Error{pos, fmt.Sprintf(format, args...)})
}

// Err returns nil if there are no mistakes, and else all of them in the order of their lines, file by file as they came.
func (e Errors) Err() error {
	if len(e) == 0 {
		return nil
	}
	files := map[string]int{}
	for i := range e {
		if _, ok := files[e[i].Pos.File]; !ok {
			files[e[i].Pos.File] = len(files)
		}
	}
	slices.SortStableFunc(e, func(a, b Error) int {
		return cmp.Or(cmp.Compare(files[a.Pos.File], files[b.Pos.File]), cmp.Compare(a.Pos.Line, b.Pos.Line))
	})
	return e
}
