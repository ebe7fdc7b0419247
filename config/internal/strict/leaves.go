package strict

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"reflect"
)

// Leaves visits all keys of a decoded struct whose values are not mappings with keys of their own, with the place of each and its value as one text; skip says what to leave out by its path.
// The struct is root's, or below it. shown is the value as messages have it: a version of a secret or of what variables stand for.
func Leaves(v any, origins Origins, skip func(path string) bool, visit func(at Pos, value, shown string)) {
	leaves(reflect.ValueOf(v).Elem(), origins, skip, visit)
}

// fingerprint makes versions of secrets that mean nothing outside of this process.
var fingerprint = maphash.MakeSeed()

func version(v reflect.Value) uint64 {
	var h maphash.Hash
	h.SetSeed(fingerprint)
	if entries, ok := v.Addr().Interface().(interface{ each(func(string, any)) }); ok {
		entries.each(func(key string, value any) { fmt.Fprintf(&h, "%q %q ", key, reflect.ValueOf(value).Elem()) })
	} else {
		fmt.Fprint(&h, v)
	}
	return h.Sum64()
}

func leaves(v reflect.Value, origins Origins, skip func(string) bool, visit func(at Pos, value, shown string)) {
	owner := v.Addr().Interface().(interface{ node() *Node }).node()
	for _, f := range Fields(v.Type()) {
		field, at := v.Field(f.Index), owner.At(f.Key)
		if skip(at.Path) {
			continue
		}
		if n, ok := field.Addr().Interface().(interface{ node() *Node }); ok {
			if below := n.node(); below.pos.Path == "" { // The file leaves it out.
				below.pos = at
			}
			leaves(field, origins, skip, visit)
			continue
		}
		var t treeMaker
		secret := v.Type().Field(f.Index).Tag.Get("secret") == "true"
		value := t.value(field, at.Path, secret)
		if secret && !field.IsZero() {
			text := fmt.Sprintf("%s (version %x)", mask, version(field))
			visit(at, text, text)
			continue
		}
		visitShown := func(text string) {
			shown := text
			if names := origins.Names(at.Path); names != "" {
				shown = fmt.Sprintf("%s (version %x)", names, version(field))
			}
			visit(at, text, shown)
		}
		if text, ok := value.(string); ok {
			visitShown(text)
			continue
		}
		text, err := json.Marshal(value)
		if err != nil { // Trees always encode.
			panic(fmt.Sprint("strict: ", err))
		}
		visitShown(string(text))
	}
}
