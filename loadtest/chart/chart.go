package chart

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Point is a point of a line.
type Point struct{ X, Y float64 }

// Series is a line.
type Series struct {
	Name   string
	Points []Point
}

// The size of a diagram, and the place of its axes, in pixels at full width.
const (
	width, height = 760.0, 300.0
	left, right   = 64.0, 744.0
	top, bottom   = 64.0, 262.0
)

// canvas is a diagram in the making.
type canvas struct{ strings.Builder }

func newCanvas(title string, h float64) *canvas {
	c := &canvas{}
	fmt.Fprintf(c, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" role="img" aria-label="%s">`, width, h, html.EscapeString(title))
	c.text(8, 20, "title", title)
	return c
}

func (c *canvas) text(x, y float64, class, text string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, html.EscapeString(text))
}

func (c *canvas) hairline(x1, y1, x2, y2 float64) {
	fmt.Fprintf(c, `<line class="grid" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, x1, y1, x2, y2)
}

// legend names the series below the title.
func (c *canvas) legend(names []string) {
	x := 8.0
	for i, name := range names {
		fmt.Fprintf(c, `<line class="line" stroke="%s"%s x1="%.1f" y1="40" x2="%.1f" y2="40"/>`, colour(i), dash(i), x, x+18)
		c.text(x+24, 44, "", name)
		x += 44 + 7*float64(len([]rune(name)))
	}
}

// Lines draws series over a common axis. The axis of Y begins at 0; the title says what its unit is.
func Lines(title, xUnit string, series []Series) string {
	c := newCanvas(title, height)
	var names []string
	var maxX, maxY float64
	minX := math.Inf(1)
	for _, s := range series {
		names = append(names, s.Name)
		for _, p := range s.Points {
			minX, maxX, maxY = min(minX, p.X), max(maxX, p.X), max(maxY, p.Y)
		}
	}
	c.legend(names)
	minX = min(minX, maxX)
	yTicks := ticks(maxY)
	topY := yTicks[len(yTicks)-1]
	x := func(v float64) float64 { return left + (v-minX)/cmp.Or(maxX-minX, 1)*(right-left) }
	y := func(v float64) float64 { return bottom - v/topY*(bottom-top) }
	for _, t := range yTicks {
		c.hairline(left, y(t), right, y(t))
		c.text(left-8, y(t)+4, "end faint", number(t))
	}
	for _, t := range ticks(maxX) {
		if t >= minX && t <= maxX {
			c.text(x(t), bottom+18, "middle faint", number(t))
		}
	}
	c.text(right, bottom+34, "end faint", xUnit)
	for i, s := range series {
		var path strings.Builder
		for j, p := range s.Points {
			fmt.Fprintf(&path, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[j == 0], x(p.X), y(p.Y))
		}
		fmt.Fprintf(c, `<path class="line" stroke="%s"%s d="%s"><title>%s</title></path>`, colour(i), dash(i), path.String(), html.EscapeString(s.Name))
	}
	return c.String() + "</svg>"
}

// Share is a stretch of values, above 0, and how often they came.
type Share struct {
	From, To float64
	Count    uint64
}

// Mark is a value that the distribution has a line for.
type Mark struct {
	Name  string
	Value float64
}

// Distribution draws how values are distributed, over a logarithmic axis, with marks.
func Distribution(title, unit string, shares []Share, marks []Mark) string {
	// The names of the marks are between the title and the bars, each at its own height: neighbours don't cover each other.
	top, bottom := top+13*float64(len(marks))-20, bottom+13*float64(len(marks))-20
	c := newCanvas(title, bottom+height-262)
	const columns = 120
	minX, maxX := math.Inf(1), 0.0
	var total float64
	for _, s := range shares {
		minX, maxX, total = min(minX, max(s.From, 1e-3)), max(maxX, s.To), total+float64(s.Count)
	}
	if total == 0 {
		return c.String() + "</svg>"
	}
	low, high := math.Log10(minX), math.Log10(max(maxX, minX*1.01))
	x := func(v float64) float64 { return left + (math.Log10(max(v, minX))-low)/(high-low)*(right-left) }
	var bars [columns]float64
	for _, s := range shares {
		// What a wide bucket has is spread over the columns that it covers.
		first := (x(s.From) - left) / (right - left) * columns
		last := max((x(s.To)-left)/(right-left)*columns, first+1e-9)
		for i := max(int(first), 0); i < columns && float64(i) < last; i++ {
			covered := min(float64(i+1), last) - max(float64(i), first)
			bars[i] += float64(s.Count) / total * covered / (last - first)
		}
	}
	most := slices.Max(bars[:])
	for _, t := range ticks(most * 100) {
		if y := bottom - t/100/most*(bottom-top); y >= top-1 {
			c.hairline(left, y, right, y)
			c.text(left-8, y+4, "end faint", number(t)+" %")
		}
	}
	for i, b := range bars {
		h := b / most * (bottom - top)
		const w = (right - left) / columns
		fmt.Fprintf(c, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="var(--c0)"/>`, left+float64(i)*w, bottom-h, w-1, h)
	}
	for e := math.Floor(low); e <= math.Ceil(high); e++ {
		for _, m := range []float64{1, 2, 5} {
			if v := m * math.Pow(10, e); v >= minX && v <= maxX {
				c.text(x(v), bottom+18, "middle faint", number(v))
			}
		}
	}
	c.text(right, bottom+34, "end faint", unit)
	for i, m := range marks {
		y := 36 + float64(i)*13
		fmt.Fprintf(c, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="var(--c1)" stroke-width="1.5"/>`, x(m.Value), y, x(m.Value), bottom)
		class, dx := "", 4.0
		if x(m.Value) > right-110 {
			class, dx = "end", -4
		}
		c.text(x(m.Value)+dx, y+8, class, fmt.Sprintf("%s %s", m.Name, number(m.Value)))
	}
	return c.String() + "</svg>"
}

// Bar is a horizontal bar of parts, one after the other.
type Bar struct {
	Name  string
	Parts []float64
	Note  string
}

// Bars draws bars that are comparable with each other. parts names what the parts are; it may be empty if there is one.
func Bars(title string, parts []string, bars []Bar) string {
	const first, step, nameWidth, noteWidth = 56.0, 26.0, 184.0, 150.0
	c := newCanvas(title, first+step*float64(len(bars))+8)
	c.legend(parts)
	longest := 0.0
	for _, b := range bars {
		longest = max(longest, sum(b.Parts))
	}
	for i, b := range bars {
		y := first + step*float64(i)
		c.text(nameWidth-8, y+14, "end", b.Name)
		x := nameWidth
		for j, p := range b.Parts {
			w := p / cmp.Or(longest, 1) * (width - nameWidth - noteWidth)
			fmt.Fprintf(c, `<rect x="%.1f" y="%.1f" width="%.1f" height="18" fill="%s"/>`, x, y, w, colour(j))
			x += w
		}
		c.text(x+8, y+14, "faint", b.Note)
	}
	return c.String() + "</svg>"
}

func sum(values []float64) (total float64) {
	for _, v := range values {
		total += v
	}
	return total
}

// ticks returns round values from 0 to the first that is not below the highest.
func ticks(highest float64) []float64 {
	if highest <= 0 || math.IsInf(highest, 0) || math.IsNaN(highest) {
		return []float64{0, 1}
	}
	step := math.Pow(10, math.Floor(math.Log10(highest/4)))
	for _, m := range []float64{1, 2, 2.5, 5, 10} {
		if highest/(step*m) <= 5 {
			step *= m
			break
		}
	}
	out := []float64{0}
	for i := 1.0; out[len(out)-1] < highest; i++ {
		out = append(out, i*step)
	}
	return out
}

// number writes a value with three digits or all before the point.
func number(v float64) string {
	if v >= 1000 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
