package manual

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
)

// link is a link of Markdown. What stands in back quotes is none; CheckLinks takes that out before.
var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	verbatim = regexp.MustCompile("(?s)```.*?\n```|`[^`\n]*`")
	heading  = regexp.MustCompile(`(?m)^#+ (.+)$`)
)

// CheckLinks returns the links of a page that lead nowhere: to a file that is not there, or to a heading that its page does not have. Links to other hosts are not followed.
func CheckLinks(root, name string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, m := range link.FindAllStringSubmatch(verbatim.ReplaceAllString(string(text), ""), -1) {
		to, anchor, _ := strings.Cut(m[1], "#")
		if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
			continue
		}
		target := name
		if to != "" {
			target = filepath.Join(filepath.Dir(name), to)
		}
		if _, err := os.Stat(filepath.Join(root, target)); err != nil {
			found = append(found, fmt.Sprintf("%s: link to %s: there is no such file", name, m[1]))
			continue
		}
		if anchor == "" {
			continue
		}
		page, err := os.ReadFile(filepath.Join(root, target))
		if err != nil {
			return nil, err
		}
		if !anchors(string(page))[anchor] {
			found = append(found, fmt.Sprintf("%s: link to %s: the page has no such heading", name, m[1]))
		}
	}
	return found, nil
}

// anchors are the names of a page's headings in links, as GitHub makes them.
func anchors(page string) map[string]bool {
	names := map[string]bool{}
	code := regexp.MustCompile("(?s)```.*?\n```")
	for _, m := range heading.FindAllStringSubmatch(code.ReplaceAllString(page, ""), -1) {
		var b strings.Builder
		for _, r := range strings.ToLower(m[1]) {
			switch {
			case r == ' ':
				b.WriteByte('-')
			case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
				b.WriteRune(r)
			}
		}
		names[b.String()] = true
	}
	return names
}
