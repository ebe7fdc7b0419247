package extproc

import (
	"slices"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
	"github.com/policy-engine/policy-engine/fastpath/view"
)

// Envoy's limits of one header mutation, with the defaults of its HTTP connection manager (mutation_utils.cc, responseHeaderSizeCheck).
const (
	maxChanges     = httpsyntax.MaxFields
	maxChangeBytes = httpsyntax.MaxFieldBytes
)

// changes are what the calls of one phase changed, in chain order. The bytes are its own.
type changes struct {
	list  []change
	arena []byte
	// size is the sum of names and values.
	size   int
	method bool // one of list sets :method
	routes bool // Envoy is to choose the route anew; :path is one of list
}

type change struct {
	kind        changeKind
	name, value []byte // of changes.arena, or of an array that it outgrew
}

type changeKind uint8

const (
	setHeader changeKind = iota
	appendHeader
	removeHeader
)

func (c *changes) reset() {
	clear(c.list)
	c.list, c.arena, c.size, c.method, c.routes = c.list[:0], c.arena[:0], 0, false, false
}

// fits reports whether Envoy would take the changes with these added.
func (c *changes) fits(mutations []*workerv1.Mutation) bool {
	size := c.size
	n := len(c.list)
	for _, m := range mutations {
		if !c.removes(m) {
			n++
			size += len(headerName(m)) + len(m.Value)
		}
	}
	return n <= maxChanges && size <= maxChangeBytes
}

// removes reports whether the mutation is a removal that changes nothing: the header is removed already.
func (c *changes) removes(m *workerv1.Mutation) bool {
	if m.Kind != workerv1.Mutation_KIND_REMOVE_HEADER {
		return false
	}
	for i := len(c.list) - 1; i >= 0; i-- {
		if string(c.list[i].name) == m.Name {
			return c.list[i].kind == removeHeader
		}
	}
	return false
}

// remove adds the removal of a header, in lower case. It reports false if there is no room for it, or if Envoy would not do it.
func (c *changes) remove(name []byte) bool {
	start := len(c.arena)
	for _, b := range name {
		if 'A' <= b && b <= 'Z' {
			b += 'a' - 'A'
		}
		c.arena = append(c.arena, b)
	}
	lower := c.arena[start:len(c.arena):len(c.arena)]
	if c.replaces(view.String(lower)) {
		c.arena = c.arena[:start]
		return true // Another line of the same name.
	}
	if len(c.list) >= maxChanges || c.size+len(lower) > maxChangeBytes || checkHeader(view.String(lower), "") != nil {
		return false
	}
	c.list = append(c.list, change{kind: removeHeader, name: lower})
	c.size += len(lower)
	return true
}

// set adds the replacement of a header, which nothing before has changed; value is copied. It reports false if there is no room for it, or if
// Envoy would not do it.
func (c *changes) set(name string, value []byte) bool {
	if len(c.list) >= maxChanges || c.size+len(name)+len(value) > maxChangeBytes || checkHeader(name, view.String(value)) != nil {
		return false
	}
	c.copy(setHeader, name, value)
	return true
}

// sets reports whether a policy has set the header.
func (c *changes) sets(name string) bool {
	return slices.ContainsFunc(c.list, func(ch change) bool { return ch.kind != removeHeader && string(ch.name) == name })
}

// add copies mutations, which have been checked.
func (c *changes) add(mutations []*workerv1.Mutation) {
	for _, m := range mutations {
		if c.removes(m) {
			continue
		}
		kind := setHeader
		switch m.Kind {
		case workerv1.Mutation_KIND_APPEND_HEADER:
			kind = appendHeader
		case workerv1.Mutation_KIND_REMOVE_HEADER:
			kind = removeHeader
		case workerv1.Mutation_KIND_SET_METHOD:
			c.method = true
		case workerv1.Mutation_KIND_SET_PATH_AND_ROUTE:
			c.routes = true
		}
		c.copy(kind, headerName(m), m.Value)
	}
}

// copy appends a change with copies of its name and value.
func (c *changes) copy(kind changeKind, name string, value []byte) {
	ch := change{kind: kind}
	start := len(c.arena)
	c.arena = append(c.arena, name...)
	ch.name = c.arena[start:len(c.arena):len(c.arena)]
	start = len(c.arena)
	c.arena = append(c.arena, value...)
	ch.value = c.arena[start:len(c.arena):len(c.arena)]
	c.list = append(c.list, ch)
	c.size += len(name) + len(value)
}

// replaces reports whether nothing is left of what the client sent as a header: it was set, or removed.
func (c *changes) replaces(name string) bool {
	for i := range c.list {
		if ch := &c.list[i]; ch.kind != appendHeader && string(ch.name) == name {
			return true
		}
	}
	return false
}

// headerName is the name of the header that Envoy is to change.
func headerName(m *workerv1.Mutation) string {
	switch m.Kind {
	case workerv1.Mutation_KIND_SET_PATH, workerv1.Mutation_KIND_SET_PATH_AND_ROUTE:
		return ":path"
	case workerv1.Mutation_KIND_SET_METHOD:
		return ":method"
	case workerv1.Mutation_KIND_SET_STATUS:
		return ":status"
	default:
		return m.Name
	}
}

// append appends the fields of a HeaderMutation that has, applied as Envoy does it, the outcome of the changes applied one after the other.
//
// Envoy removes first and sets then, both in their order. A change counts only if no later one sets or removes the same header. What is left of a header is
// then one of: a removal; a set; either of these or nothing, followed by appends. All of them keep their meaning when removals go first.
func (c *changes) append(dst []byte) []byte {
	for i := range c.list {
		if ch := &c.list[i]; ch.kind != removeHeader && !c.superseded(i) {
			dst = appendSetHeader(dst, ch.name, ch.value, ch.kind == appendHeader)
		}
	}
	for i := range c.list {
		if ch := &c.list[i]; ch.kind == removeHeader && !c.superseded(i) {
			dst = appendBytes(dst, 2, ch.name) // HeaderMutation.remove_headers
		}
	}
	return dst
}

// superseded reports whether a later change makes this one void. Lists have 100 entries at most, and a handful as a rule.
func (c *changes) superseded(i int) bool {
	for j := i + 1; j < len(c.list); j++ {
		if c.list[j].kind != appendHeader && string(c.list[j].name) == string(c.list[i].name) {
			return true
		}
	}
	return false
}
