package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Change is a difference between two configurations.
type Change struct {
	// Kind is added, removed or changed.
	Kind string `json:"kind"`
	// What is "route NAME", "worker NAME", or a key of policy_kernel.
	What string `json:"what"`
	// Path is where in it, such as request_flow.policy_chain[1].params.requests; empty if it is all of it.
	Path string `json:"path,omitempty"`
	Old  any    `json:"old,omitempty"`
	New  any    `json:"new,omitempty"`
	// Restart is true if a reload can't bring it.
	Restart bool `json:"restart,omitempty"`
}

// The kinds.
const (
	Added   = "added"
	Removed = "removed"
	Changed = "changed"
)

// String is one line, without secrets.
func (c Change) String() string {
	where := c.What
	if c.Path != "" {
		where += ": " + c.Path
	}
	var line string
	switch c.Kind {
	case Added:
		line = "+ " + where + ": " + show(c.New)
	case Removed:
		line = "- " + where + ": " + show(c.Old)
	default:
		line = "~ " + where + ": " + show(c.Old) + " → " + show(c.New)
	}
	if c.Restart {
		line += " (needs a restart)"
	}
	return line
}

// show is a value on one line.
func show(v any) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSpace(b.String())
}

// named are the lists whose items have names: their order means nothing.
var named = map[string]struct{ key, what string }{
	"workers":        {"name", "worker "},
	"route_policies": {"route_name", "route "},
}

// Diff lists the changes from one configuration to another, in the order of the keys' names.
func Diff(old, new Tree) []Change {
	var d differ
	for _, key := range keys(old, new) {
		if by, ok := named[key]; ok {
			d.named(by.what, byName(old[key], by.key), byName(new[key], by.key))
			continue
		}
		d.what = key
		d.value("", old[key], new[key])
	}
	return d.changes
}

func keys(a, b map[string]any) []string {
	all := make(map[string]bool, len(a)+len(b))
	for k := range a {
		all[k] = true
	}
	for k := range b {
		all[k] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// byName are the items of a list by their names.
func byName(list any, key string) map[string]any {
	out := make(map[string]any)
	items, _ := list.([]any)
	for _, i := range items {
		if m, ok := i.(map[string]any); ok {
			name, _ := m[key].(string)
			out[name] = m
		}
	}
	return out
}

type differ struct {
	what    string
	changes []Change
}

func (d *differ) add(kind, path string, old, new any) {
	d.changes = append(d.changes, Change{Kind: kind, What: d.what, Path: path, Old: old, New: new, Restart: d.restart(path)})
}

// restart reports whether a reload can't change what is at the path.
func (d *differ) restart(path string) bool {
	return !strings.Contains(d.what, " ") && !isReloadable(strings.TrimSuffix(d.what+"."+path, "."))
}

func (d *differ) named(what string, old, new map[string]any) {
	for _, name := range keys(old, new) {
		d.what = what + name
		before, was := old[name]
		after, is := new[name]
		switch {
		case !was:
			d.add(Added, "", nil, after)
		case !is:
			d.add(Removed, "", before, nil)
		default:
			d.value("", before, after)
		}
	}
}

// value compares two values at a path. Chains are compared place by place when they are as long, and else told as a whole: what moved where would be a guess.
func (d *differ) value(path string, old, new any) {
	a, aok := old.(map[string]any)
	b, bok := new.(map[string]any)
	if aok && bok {
		for _, key := range keys(a, b) {
			at := key
			if path != "" {
				at = path + "." + key
			}
			before, was := a[key]
			after, is := b[key]
			switch {
			case !was:
				d.add(Added, at, nil, after)
			case !is:
				d.add(Removed, at, before, nil)
			default:
				d.value(at, before, after)
			}
		}
		return
	}
	x, xok := old.([]any)
	y, yok := new.([]any)
	if xok && yok && len(x) == len(y) {
		for i := range x {
			d.value(fmt.Sprintf("%s[%d]", path, i), x[i], y[i])
		}
		return
	}
	if !equal(old, new) {
		d.add(Changed, path, old, new)
	}
}

// equal compares scalars and lists of different lengths. A secret that somebody else has masked may be any.
func equal(a, b any) bool {
	x, xok := a.(Secret)
	y, yok := b.(Secret)
	switch {
	case xok && yok:
		return x == y
	case xok || yok:
		return fmt.Sprint(a) == fmt.Sprint(b)
	}
	return show(a) == show(b)
}
