package manual

import (
	"fmt"
	"regexp"
	"strings"
)

// Row is a row of a table in a page.
type Row struct {
	// Section is the text of the heading above the table, without its number signs.
	Section string
	// Line is the row's line in the page, from 1.
	Line  int
	Cells []string
	// Columns are the names of the table's columns.
	Columns []string
}

// Cell returns the cell in a column, and "" if the table has no such column.
func (r *Row) Cell(column string) string {
	for i, name := range r.Columns {
		if name == column && i < len(r.Cells) {
			return r.Cells[i]
		}
	}
	return ""
}

// Rows returns the rows of all tables of a page, in their order. A table whose rows have not as many cells as its head has is an error.
func Rows(page string) ([]Row, error) {
	var rows []Row
	var columns []string
	section, number, code := "", 0, false
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		number++
		if strings.HasPrefix(line, "```") {
			code = !code
		}
		if code || !strings.HasPrefix(line, "|") {
			columns = nil
			if heading := strings.TrimLeft(line, "#"); heading != line && !code {
				section = strings.TrimSpace(heading)
			}
			continue
		}
		cells := split(line)
		switch {
		case columns == nil:
			columns = cells
		case ruler.MatchString(line):
		case len(cells) != len(columns):
			return nil, fmt.Errorf("line %d: %d cells in a table of %d columns: %s", number, len(cells), len(columns), line)
		default:
			rows = append(rows, Row{Section: section, Line: number, Cells: cells, Columns: columns})
		}
	}
	return rows, nil
}

// ruler is the line below a table's head.
var ruler = regexp.MustCompile(`^\|( *:?-+:? *\|)+$`)

// split returns the cells of a line. A bar with a backslash, or within back quotes, is text.
func split(line string) []string {
	line = strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|")
	var cells []string
	var cell strings.Builder
	quoted := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && i+1 < len(line) && line[i+1] == '|':
			i++
			cell.WriteByte('|')
		case c == '|' && !quoted:
			cells = append(cells, strings.TrimSpace(cell.String()))
			cell.Reset()
		default:
			quoted = quoted != (c == '`')
			cell.WriteByte(c)
		}
	}
	return append(cells, strings.TrimSpace(cell.String()))
}

// Quoted returns what stands in back quotes in a text.
func Quoted(text string) []string {
	var spans []string
	parts := strings.Split(text, "`")
	for i := 1; i < len(parts); i += 2 {
		spans = append(spans, parts[i])
	}
	return spans
}
