// Package worker runs policies: a gRPC server on a Unix socket, the registry of the policies compiled in, and the generations of chains that kernels push.
package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/policies"
)

// Registry has the policies that a worker offers. It is immutable.
type Registry struct {
	definitions map[string]policies.Definition
	names       []string // sorted
	descriptors []*workerv1.PolicyDescriptor
}

// NewRegistry makes a registry. Two policies of one name are an error, and so are all that Definition.Check finds.
func NewRegistry(definitions ...policies.Definition) (*Registry, error) {
	r := &Registry{definitions: make(map[string]policies.Definition, len(definitions))}
	var errs []error
	for _, d := range definitions {
		if err := checkDefinition(d); err != nil {
			errs = append(errs, fmt.Errorf("register %w", err))
			continue
		}
		if _, ok := r.definitions[d.Name()]; ok {
			errs = append(errs, fmt.Errorf("register policy %q: there are two of that name", d.Name()))
			continue
		}
		r.definitions[d.Name()] = d
		r.names = append(r.names, d.Name())
	}
	slices.Sort(r.names)
	for _, name := range r.names {
		descriptor, err := describe(r.definitions[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("register policy %q: %w", name, err))
			continue
		}
		r.descriptors = append(r.descriptors, descriptor)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return r, nil
}

// checkDefinition also keeps names to what needs no quoting in labels, paths and Env.Instance.
func checkDefinition(d policies.Definition) error {
	if err := d.Check(); err != nil {
		return err
	}
	for _, c := range d.Name() {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.' {
			return fmt.Errorf("policy %q: legal in a name are letters, digits, '_', '-' and '.'", d.Name())
		}
	}
	if d.Name() == noPolicy {
		return fmt.Errorf("policy %q: metrics use this name for failures without a policy", d.Name())
	}
	return nil
}

func describe(d policies.Definition) (*workerv1.PolicyDescriptor, error) {
	schema, err := schemaOf(d.Params())
	if err != nil {
		return nil, err
	}
	bodies := d.Bodies()
	out := &workerv1.PolicyDescriptor{
		Name: d.Name(), Version: d.Version(), ParamsSchema: schema,
		NeedsWholeRequestBody: bodies.WholeRequest, NeedsWholeResponseBody: bodies.WholeResponse,
		DecodesBodies: bodies.Decoded, ReadsBodiesOnly: bodies.ReadOnly,
	}
	for _, p := range d.Phases() {
		out.Phases = append(out.Phases, workerv1.Phase(p))
	}
	return out, nil
}

// schemaOf makes the JSON Schema of a policy's parameters.
func schemaOf(params reflect.Type) (schema []byte, err error) {
	defer func() {
		if p := recover(); p != nil { // The library's way of saying that a type has no JSON form.
			err = fmt.Errorf("make the schema of %v: %v", params, p)
		}
	}()
	reflector := jsonschema.Reflector{
		Anonymous:                  true,
		ExpandedStruct:             true,
		RequiredFromJSONSchemaTags: true, // Without the tag, a parameter has a default.
		Mapper:                     schemaOfText,
	}
	return json.Marshal(reflector.ReflectFromType(params))
}

// durationPattern is what time.ParseDuration takes.
const durationPattern = `^[-+]?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`

var (
	durationType        = reflect.TypeFor[policies.Duration]()
	claimPathType       = reflect.TypeFor[policies.ClaimPath]()
	claimHeadersType    = reflect.TypeFor[policies.ClaimHeaders]()
	textUnmarshaler     = reflect.TypeFor[interface{ UnmarshalText([]byte) error }]()
	jsonUnmarshaler     = reflect.TypeFor[json.Unmarshaler]()
	ownSchema           = reflect.TypeFor[interface{ JSONSchema() *jsonschema.Schema }]()
	ownSchemaOfTheAlias = reflect.TypeFor[interface{ JSONSchemaAlias() any }]()
)

// schemaOfText describes the types that decode themselves; nil leaves a type to the library.
func schemaOfText(t reflect.Type) *jsonschema.Schema {
	pointer := reflect.PointerTo(t)
	switch {
	case t == durationType:
		return &jsonschema.Schema{Type: "string", Pattern: durationPattern, Examples: []any{"500ms", "10s", "1h"}}
	case t == claimPathType:
		text := &jsonschema.Schema{Type: "string"}
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{text, {Type: "array", Items: text}}}
	case t == claimHeadersType:
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "object"}, {Type: "array", Items: &jsonschema.Schema{Type: "object"}}}}
	case pointer.Implements(ownSchema) || pointer.Implements(ownSchemaOfTheAlias):
		return nil
	case pointer.Implements(jsonUnmarshaler):
		return jsonschema.TrueSchema
	case pointer.Implements(textUnmarshaler):
		return &jsonschema.Schema{Type: "string"}
	}
	return nil
}

// unknown is the message for a policy that is not there.
func (r *Registry) unknown(name string) string {
	if len(r.names) == 0 {
		return fmt.Sprintf("unknown policy %q; this worker has none", name)
	}
	return fmt.Sprintf("unknown policy %q; legal are %s", name, strings.Join(r.names, ", "))
}
