// Package chart draws diagrams as SVG, and puts them into pages that need nothing from elsewhere and are readable in the light and in the dark.
package chart

import (
	"fmt"
	"html"
	"strings"
)

// style has the colours of both modes. Text is at least 4.5:1 on its ground, lines and bars 3:1 (WCAG 2.2, 1.4.3 and 1.4.11).
const style = `
:root, svg { --ground: #ffffff; --text: #1f2430; --faint: #5b6472; --grid: #e2e5ea;
  --c0: #2563eb; --c1: #c2410c; --c2: #15803d; --c3: #7c3aed; --c4: #0e7490; --c5: #a16207; }
@media (prefers-color-scheme: dark) { :root, svg { --ground: #14171d; --text: #e6e9ef; --faint: #9aa4b2; --grid: #2b313b;
  --c0: #7aa2ff; --c1: #ff9d66; --c2: #5fd38a; --c3: #b99bff; --c4: #5fd0e0; --c5: #e3b341; } }
svg { font: 12px system-ui, sans-serif; display: block; width: 100%; height: auto; }
svg text { fill: var(--text); }
svg .faint { fill: var(--faint); }
svg .title { font-size: 15px; font-weight: 600; }
svg .end { text-anchor: end; }
svg .middle { text-anchor: middle; }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
`

// page is what the HTML pages have besides.
const page = `
body { background: var(--ground); color: var(--text); font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; } p { margin: .25rem 0; } .faint { color: var(--faint); }
figure { margin: 1.5rem 0 0; overflow-x: auto; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th:first-child, td:first-child, th:last-child:not(:nth-child(-n+6)), td.text { text-align: left; } th { color: var(--faint); font-weight: 500; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .75rem; margin: 1rem 0 0; }
dt { color: var(--faint); font-size: .85rem; } dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
`

// colour is that of series i. There are six; a diagram with more repeats them, with another dash.
func colour(i int) string { return fmt.Sprintf("var(--c%d)", i%6) }

func dash(i int) string {
	if i < 6 {
		return ""
	}
	return ` stroke-dasharray="6 4"`
}

// Page is an HTML page of sections, each of them HTML.
func Page(title string, sections ...string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n"+
		"<meta name=\"color-scheme\" content=\"light dark\">\n<title>%s</title>\n<style>%s%s</style>\n</head>\n<body>\n<h1>%s</h1>\n",
		html.EscapeString(title), style, page, html.EscapeString(title))
	for _, s := range sections {
		b.WriteString(s + "\n")
	}
	b.WriteString("</body>\n</html>\n")
	return []byte(b.String())
}

// Figure puts a diagram into a page.
func Figure(svg string) string { return "<figure>" + svg + "</figure>" }

// Text is a paragraph.
func Text(text string) string { return "<p class=\"faint\">" + html.EscapeString(text) + "</p>" }

// Heading begins a part of a page.
func Heading(text string) string { return "<h2>" + html.EscapeString(text) + "</h2>" }

// Figures is a list of names and values that are to be seen first.
func Figures(pairs [][2]string) string {
	var b strings.Builder
	b.WriteString("<dl>")
	for _, p := range pairs {
		fmt.Fprintf(&b, "<div><dt>%s</dt><dd>%s</dd></div>", html.EscapeString(p[0]), html.EscapeString(p[1]))
	}
	return b.String() + "</dl>"
}

// Table is a table whose first row has the names of the columns.
func Table(rows [][]string) string {
	var b strings.Builder
	b.WriteString("<div class=\"scroll\"><table>")
	for i, row := range rows {
		tag := "td"
		if i == 0 {
			tag = "th"
		}
		b.WriteString("<tr>")
		for _, cell := range row {
			fmt.Fprintf(&b, "<%s>%s</%s>", tag, html.EscapeString(cell), tag)
		}
		b.WriteString("</tr>\n")
	}
	return b.String() + "</table></div>"
}

// Standalone is a diagram as a file of its own.
func Standalone(svg string) []byte {
	return []byte(strings.Replace(svg, ">", "><style>"+style+"</style><rect width=\"100%\" height=\"100%\" fill=\"var(--ground)\"/>", 1) + "\n")
}
