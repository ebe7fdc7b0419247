package config

import (
	"fmt"
	"strings"

	"github.com/policy-engine/policy-engine/config/internal/strict"
)

// warn notes something that is valid and probably not what was meant. Warnings have the form of mistakes, and stop nothing.
func (c *checker) warn(pos strict.Pos, format string, args ...any) {
	c.warnings.Add(Pos(pos), "%s", c.origins.Hide(pos.Path, fmt.Sprintf(format, args...)))
}

// sorted returns the warnings in the order of their lines.
func (c *checker) sorted() Errors {
	_ = c.warnings.Err() // It sorts.
	return c.warnings
}

// warnOfPattern warns of a route's name that looks like a pattern. Names are compared as a whole.
func (c *checker) warnOfPattern(name string, pos strict.Pos) {
	if strings.ContainsAny(name, "*{}^$\\") {
		c.warn(pos, "%q looks like a pattern, and is taken as one name; expected exactly the name that Envoy's route has", name)
	}
}

// warnOfIssuer warns of what looks like a place for a tenant and is none.
func (c *checker) warnOfIssuer(text, tenant string, pos strict.Pos) {
	if rest := strings.ReplaceAll(text, tenant, ""); strings.ContainsAny(rest, "*{}") {
		c.warn(pos, "%q looks like a template, and is taken as it is; expected the issuer's exact URL, or %s with tenants", text, tenant)
	}
}
