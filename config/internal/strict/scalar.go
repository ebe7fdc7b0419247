package strict

import (
	"encoding"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// scalar decodes a text, number, truth value, duration or size.
func (d *decoder) scalar(n *yaml.Node, dst reflect.Value, path string, f Field) {
	what := wanted(dst)
	if !d.want(n, yaml.ScalarNode, path, what) {
		return
	}
	text, substituted, ok := d.substitute(n, path)
	if !ok {
		return
	}
	plain := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	switch v := dst.Addr().Interface().(type) {
	case Enum:
		if !slices.Contains(v.Legal(), text) {
			d.fail(n.Line, path, "%s is not legal; %s", shown(n), what)
			return
		}
		dst.SetString(text)
	case encoding.TextUnmarshaler:
		if dst.Kind() == reflect.String && plain && !substituted && !isText(n) {
			d.fail(n.Line, path, "is %s; legal is a text: quote it", describe(n))
			return
		}
		if err := v.UnmarshalText([]byte(text)); err != nil {
			d.fail(n.Line, path, "%s", err)
			return
		}
		d.inRange(n, v, path, f)
	default:
		d.plainScalar(n, text, plain, substituted, dst, path, f)
	}
}

// plainScalar decodes into the types of the language.
func (d *decoder) plainScalar(n *yaml.Node, text string, plain, substituted bool, dst reflect.Value, path string, f Field) {
	switch dst.Kind() {
	case reflect.String:
		if plain && !substituted && !isText(n) {
			d.fail(n.Line, path, "is %s; legal is a text: quote it", describe(n))
			return
		}
		if least, _ := strconv.Atoi(f.Min); len(text) < least {
			d.fail(n.Line, path, "is an empty text; legal is a text with at least %d byte", least)
			return
		}
		if most, _ := strconv.Atoi(f.Max); most > 0 && len(text) > most {
			d.fail(n.Line, path, "has %d bytes; legal are up to %d", len(text), most)
			return
		}
		dst.SetString(text)
	case reflect.Int:
		i, err := strconv.ParseInt(text, 10, 64)
		least, _ := strconv.ParseInt(f.Min, 10, 64)
		most, _ := strconv.ParseInt(f.Max, 10, 64)
		switch {
		case err != nil || text != strconv.FormatInt(i, 10) || !plain && !substituted:
			d.fail(n.Line, path, "%s is not an integer; legal are %s to %s", shown(n), f.Min, f.Max)
		case i < least || i > most:
			d.fail(n.Line, path, "%s is out of range; legal are %s to %s", n.Value, f.Min, f.Max)
		default:
			dst.SetInt(i)
		}
	case reflect.Bool:
		if text != "true" && text != "false" || !plain && !substituted {
			d.fail(n.Line, path, "%s is not a truth value; legal are true and false", shown(n))
			return
		}
		dst.SetBool(text == "true")
	case reflect.Float64:
		x, err := strconv.ParseFloat(text, 64)
		least, _ := strconv.ParseFloat(f.Min, 64)
		most, _ := strconv.ParseFloat(f.Max, 64)
		switch {
		case err != nil || math.IsNaN(x) || !decimal(text) || !plain && !substituted:
			d.fail(n.Line, path, "%s is not a number; legal are %s to %s", shown(n), f.Min, f.Max)
		case x < least || x > most:
			d.fail(n.Line, path, "%s is out of range; legal are %s to %s", n.Value, f.Min, f.Max)
		default:
			dst.SetFloat(x)
		}
	default: // A mistake in our own types, which the first test of a file finds.
		panic("strict: field of type " + dst.Type().String())
	}
}

// decimal reports whether a number is written with digits, as people do: no 0x1p-2, no 1_000, no Inf.
func decimal(text string) bool { return strings.Trim(text, "0123456789.eE+-") == "" }

func isText(n *yaml.Node) bool {
	tag := n.ShortTag()
	return tag == "!!str" || tag == "!!timestamp"
}

// shown is the value as it is in the file: with the names of its variables, not with their values.
func shown(n *yaml.Node) string { return quote(n.Value) }

// wanted describes what dst takes.
func wanted(dst reflect.Value) string {
	switch v := dst.Addr().Interface().(type) {
	case Enum:
		legal := v.Legal()
		if len(legal) == 1 {
			return "legal is " + legal[0]
		}
		return "legal are " + strings.Join(legal, ", ")
	case *Duration:
		return "a duration such as 500ms"
	case *Size:
		return "a size such as 64KiB"
	}
	switch dst.Kind() {
	case reflect.Int:
		return "an integer"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a number"
	default:
		return "a text"
	}
}

// inRange checks durations and sizes.
func (d *decoder) inRange(n *yaml.Node, v any, path string, f Field) {
	if f.Min == "" {
		return
	}
	switch v := v.(type) {
	case *Duration:
		least, _ := time.ParseDuration(f.Min)
		most, _ := time.ParseDuration(f.Max)
		if time.Duration(*v) < least || time.Duration(*v) > most {
			d.fail(n.Line, path, "%s is out of range; legal are %s to %s", n.Value, f.Min, f.Max)
		}
	case *Size:
		var least, most Size
		if least.UnmarshalText([]byte(f.Min)) != nil || most.UnmarshalText([]byte(f.Max)) != nil {
			panic("strict: range of " + path)
		}
		if *v < least || *v > most {
			d.fail(n.Line, path, "%s is out of range; legal are %s to %s", n.Value, f.Min, f.Max)
		}
	}
}

// substitute replaces ${NAME} and ${NAME:-default} in the value by the variable, and $${ by ${. What it puts in is not looked at again, and stays
// one scalar. ok is false if it told a problem.
func (d *decoder) substitute(n *yaml.Node, path string) (text string, substituted, ok bool) {
	if !strings.Contains(n.Value, "${") {
		return n.Value, false, true
	}
	var out strings.Builder
	rest := n.Value
	for {
		before, after, found := strings.Cut(rest, "${")
		if !found {
			out.WriteString(rest)
			return out.String(), substituted, true
		}
		if escaped, ok := strings.CutSuffix(before, "$"); ok {
			out.WriteString(escaped + "${")
			rest = after
			continue
		}
		out.WriteString(before)
		reference, after, found := strings.Cut(after, "}")
		name, fallback, hasFallback := strings.Cut(reference, ":-")
		if !found || !isVariable(name) {
			d.fail(n.Line, path, "%s has a wrong variable; legal are ${NAME} and ${NAME:-default}, and $${ for a plain ${", quote(n.Value))
			return "", false, false
		}
		value, set := d.env(name)
		switch {
		case hasFallback && value == "":
			value = fallback
		case !set:
			d.fail(n.Line, path, "the variable %s is not set; set it, or write ${%s:-default}", name, name)
			return "", false, false
		case !utf8.ValidString(value):
			d.fail(n.Line, path, "the variable %s is not UTF-8", name)
			return "", false, false
		}
		out.WriteString(value)
		substituted = true
		d.origins.add(path, name, value)
		rest = after
	}
}

// isVariable reports whether a variable may be called so (POSIX: letters, digits, '_', no digit first).
func isVariable(name string) bool {
	for i, c := range []byte(name) {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
