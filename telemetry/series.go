package telemetry

import "strings"

// labelEscaper escapes label values as the Prometheus text format wants it.
var labelEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// Series is the name of a metric with its labels, given as pairs of name and value: Series("hits", "route", "a") is hits{route="a"}.
func Series(name string, labels ...string) string {
	var b strings.Builder
	b.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		if i == 0 {
			b.WriteByte('{')
		} else {
			b.WriteByte(',')
		}
		b.WriteString(labels[i])
		b.WriteString(`="`)
		_, _ = labelEscaper.WriteString(&b, labels[i+1]) // A strings.Builder doesn't fail.
		b.WriteByte('"')
	}
	if len(labels) > 1 {
		b.WriteByte('}')
	}
	return b.String()
}
