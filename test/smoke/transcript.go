package main

import (
	"regexp"
	"strings"
)

// step is a command of a transcript with the output that the reader is promised.
type step struct {
	line    int // of the command, from 1
	command string
	want    []string
}

// parseTranscript finds the fenced console blocks of a Markdown text: a line "$ command" begins a step, the lines up to the next one are its output.
func parseTranscript(markdown string) []step {
	var steps []step
	inside := false
	for i, line := range strings.Split(markdown, "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = !inside && line == "```console"
		case !inside:
		case strings.HasPrefix(line, "$ "):
			steps = append(steps, step{line: i + 1, command: strings.TrimPrefix(line, "$ ")})
		case len(steps) > 0:
			last := &steps[len(steps)-1]
			last.want = append(last.want, line)
		}
	}
	return steps
}

// elision stands for any lines when it is a line of its own, else for at least one character.
const elision = "…"

// matches tells whether the output is what the transcript promises.
func (s *step) matches(output string) bool {
	var pattern strings.Builder
	pattern.WriteString(`\A`)
	for _, line := range s.want {
		if strings.TrimSpace(line) == elision {
			pattern.WriteString(`(?:[^\n]*\n)*?`)
			continue
		}
		pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), elision, `[^\n]+`) + `\n`)
	}
	pattern.WriteString(`\z`)
	return regexp.MustCompile(pattern.String()).MatchString(normalise(output))
}

// normalise ends each line with one line feed: HTTP/1.1 ends header lines with a carriage return too (RFC 9112 section 2.2), and Markdown shows no blanks
// at the end of a line.
func normalise(output string) string {
	lines := strings.Split(strings.TrimRight(output, "\r\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " \r")
	}
	return strings.Join(lines, "\n") + "\n"
}
