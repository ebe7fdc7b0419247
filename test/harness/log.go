package harness

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Line is a line of a program's log (SPEC 6.2).
type Line struct {
	Timestamp string         `json:"timestamp"`
	Level     string         `json:"level"`
	Component string         `json:"component"`
	RequestID string         `json:"request_id"`
	Message   string         `json:"message"`
	Metadata  map[string]any `json:"metadata"`
}

// ParseLog reads all lines of an output, and returns what is wrong with any of them. The line's component has to be one of those given.
func ParseLog(output string, components ...string) (lines []Line, problems []string) {
	for text := range strings.Lines(output) {
		text = strings.TrimSuffix(text, "\n")
		if text == "" {
			continue
		}
		var members map[string]json.RawMessage
		var line Line
		if err := json.Unmarshal([]byte(text), &members); err != nil {
			problems = append(problems, fmt.Sprintf("not JSON: %.300s", text))
			continue
		}
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			problems = append(problems, fmt.Sprintf("%v: %.300s", err, text))
			continue
		}
		for _, name := range []string{"timestamp", "level", "component", "request_id", "message", "metadata"} {
			if _, ok := members[name]; !ok {
				problems = append(problems, fmt.Sprintf("no %s: %.300s", name, text))
			}
			delete(members, name)
		}
		for name := range members {
			problems = append(problems, fmt.Sprintf("%s is not a field of the log: %.300s", name, text))
		}
		if _, err := time.Parse(time.RFC3339Nano, line.Timestamp); err != nil {
			problems = append(problems, fmt.Sprintf("timestamp: %v: %.300s", err, text))
		}
		if !slices.Contains([]string{"debug", "info", "warn", "error"}, line.Level) || !slices.Contains(components, line.Component) {
			problems = append(problems, fmt.Sprintf("level or component: %.300s", text))
		}
		lines = append(lines, line)
	}
	return lines, problems
}
