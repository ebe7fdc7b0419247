package config

import (
	"regexp"
	"slices"
	"strconv"

	"github.com/policy-engine/policy-engine/config/internal/document"
)

// placeholders are the names that templates of refusals may have in {{ }}.
var placeholders = []string{"status", "title", "code", "message"}

var placeholder = regexp.MustCompile(`\{\{([^{}]*)\}\}`)

func (c *checker) refusals(d *document.Refusals) Refusals {
	r := Refusals{Format: RefusalFormat(d.Format)}
	seen := names{}
	for i := range d.Templates {
		t := &d.Templates[i]
		seen.add(c, strconv.Itoa(t.StatusCode), t.At("status_code"), "a status has one template")
		for _, m := range placeholder.FindAllStringSubmatch(t.Body, -1) {
			if !slices.Contains(placeholders, m[1]) {
				c.fail(t.At("body"), "unknown placeholder {{%s}}, expected {{status}}, {{title}}, {{code}} or {{message}}", m[1])
			}
		}
		r.Templates = append(r.Templates, RefusalTemplate{Status: t.StatusCode, ContentType: string(t.ContentType), Body: t.Body})
	}
	return r
}
