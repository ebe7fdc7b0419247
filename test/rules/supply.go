package rules

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

var (
	// pipInstall is put together, so that this file keeps its own rule.
	pipInstall  = regexp.MustCompile(`\bpip3?\s+(` + `install|download|wheel)\b|\buv\s+pip\b|\bpipx\s+install\b`)
	requirement = regexp.MustCompile(`^[A-Za-z0-9._-]+==[^\s;]+(\s+--hash=sha256:[0-9a-f]{64})+$`)
	fromImage   = regexp.MustCompile(`(?i)^\s*FROM\s+(?:--\S+\s+)?(\S+)(?:\s+AS\s+(\S+))?`)
	composed    = regexp.MustCompile(`^\s*image:\s*["']?([^"'\s]+)`)
	argument    = regexp.MustCompile(`^\$\{[A-Z_]+(:-[^}]*)?\}$`)
	digest      = regexp.MustCompile(`@sha256:[0-9a-f]{64}$`)
)

// CheckSupply returns the places of a file that take something from a registry whose content is not pinned: a package of
// PyPI without a SHA-256, a base image that is neither an argument nor pinned by digest.
func CheckSupply(name string, content []byte) []string {
	var found []string
	base := path.Base(name)
	text := strings.ReplaceAll(string(content), "\\\n", " ")
	stages := make(map[string]bool)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		comment := strings.HasPrefix(line, "#")
		switch {
		case comment || line == "":
		case strings.HasPrefix(base, "requirements") && path.Ext(base) == ".txt":
			if !requirement.MatchString(strings.Join(strings.Fields(line), " ")) {
				found = append(found, fmt.Sprintf("%s: %.60q: expected NAME==VERSION with --hash=sha256:…", name, line))
			}
		case path.Ext(base) == ".go" || path.Ext(base) == ".md":
		case pipInstall.MatchString(line):
			if !strings.Contains(line, "--require-hashes") || !strings.Contains(line, "-r ") {
				found = append(found, fmt.Sprintf("%s: %.60q: expected --require-hashes and -r FILE", name, line))
			}
		case strings.HasPrefix(base, "Dockerfile") || strings.HasPrefix(base, "Containerfile"):
			if m := fromImage.FindStringSubmatch(line); m != nil {
				if !argument.MatchString(m[1]) && !digest.MatchString(m[1]) && !stages[m[1]] {
					found = append(found, fmt.Sprintf("%s: base image %q: expected an ARG or a digest", name, m[1]))
				}
				stages[m[2]] = true
			}
		case path.Ext(base) == ".yaml" || path.Ext(base) == ".yml":
			if m := composed.FindStringSubmatch(line); m != nil && !argument.MatchString(m[1]) && !digest.MatchString(m[1]) {
				found = append(found, fmt.Sprintf("%s: image %q: expected a variable or a digest", name, m[1]))
			}
		}
	}
	return found
}
