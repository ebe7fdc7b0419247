package rules

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// MaxLines is how long a file that a person reads may be.
const MaxLines = 600

// The words are put together here, so that this file keeps its own rules.
var (
	unfinished  = regexp.MustCompile(`\b(` + "TO" + `DO|` + "FIX" + `ME|` + "XX" + `X|` + "HA" + `CK)\b`)
	machinePath = regexp.MustCompile(`(^|[\s"'=:(\x60])/(` + "wor" + `k|home|root|Users|` + "tm" + `p)/`)
	generated   = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)
)

// CheckFile returns what is wrong with a file, each with its line.
func CheckFile(name string, content []byte) []string {
	if exempt(name, content) {
		return nil
	}
	var found []string
	lines := bytes.Split(content, []byte{'\n'})
	for i, line := range lines {
		if m := unfinished.Find(line); m != nil {
			found = append(found, fmt.Sprintf("%s:%d: %s: finish it, or write it down where work is planned", name, i+1, m))
		}
		if m := machinePath.Find(line); m != nil {
			found = append(found, fmt.Sprintf("%s:%d: %s is a path of one machine", name, i+1, bytes.TrimLeft(m, " \t\"'=:(`")))
		}
	}
	if n := len(lines) - 1; n > MaxLines && countsLines(name) {
		found = append(found, fmt.Sprintf("%s: %d lines, more than %d: look for the noun hiding in it", name, n, MaxLines))
	}
	return found
}

// exempt tells files that nobody writes: generated code, checksums, recorded data, pictures.
func exempt(name string, content []byte) bool {
	switch path.Ext(name) {
	case ".sum", ".png", ".svg", ".jpg":
		return true
	}
	return strings.Contains(name, "testdata/") || generated.Match(content) || bytes.IndexByte(content, 0) >= 0
}

func countsLines(name string) bool {
	switch path.Ext(name) {
	case ".go", ".sh", ".py", ".proto":
		return true
	}
	return path.Base(name) == "Makefile"
}
