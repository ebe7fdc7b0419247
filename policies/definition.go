package policies

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"
)

// Definition is a policy's entry in a worker's registry: what it is called, what it needs, how an instance is made.
type Definition struct {
	name     string
	version  string
	shares   string // the policy whose shared values it uses; empty: its own
	phases   []Phase
	blocking bool
	bodies   Bodies
	params   reflect.Type
	build    func(Env, json.RawMessage) (any, error)
}

// Define describes a policy with parameters C and instances P. P is a concrete type, such as *Policy, with at least one phase
// method; its methods tell which phases the policy takes part in.
//
// The parameters are decoded strictly into a C, once for each place where the policy stands in the configuration: an
// unknown, repeated or null member is an error. C may have a method `Defaults()` on its pointer that sets what the configuration leaves out. The
// json tags of C give the names, its jsonschema tags (github.com/invopop/jsonschema) the schema that editors show.
//
// build checks the values and makes the instance. A ParamError, alone or joined with others by errors.Join, says which parameter is
// wrong. An instance that is an io.Closer is closed when no request can use it any more.
func Define[C, P any](name, version string, build func(Env, C) (P, error)) Definition {
	var zero P
	_, blocking := any(zero).(Blocking)
	return Definition{
		name:     name,
		version:  version,
		phases:   phasesOf(zero),
		blocking: blocking,
		bodies:   bodiesOf(zero),
		params:   reflect.TypeFor[C](),
		build: func(env Env, raw json.RawMessage) (any, error) {
			params, err := decode[C](raw)
			if err != nil {
				return nil, err
			}
			return build(env, params)
		},
	}
}

// SharingWith returns d with the values of Env.Shared in common with the policy of that name, so that two policies of one package work on the same state.
func (d Definition) SharingWith(name string) Definition {
	d.shares = name
	return d
}

// Shares returns the name of the policy whose values of Env.Shared instances use; it is their own, unless SharingWith said otherwise.
func (d Definition) Shares() string {
	if d.shares == "" {
		return d.name
	}
	return d.shares
}

// Name returns the name by which chains refer to the policy.
func (d Definition) Name() string { return d.name }

// Version returns the policy's version.
func (d Definition) Version() string { return d.version }

// Phases returns the phases that instances take part in, in their order.
func (d Definition) Phases() []Phase { return d.phases }

// MayBlock reports whether instances implement Blocking.
func (d Definition) MayBlock() bool { return d.blocking }

// Bodies returns what instances need of bodies.
func (d Definition) Bodies() Bodies { return d.bodies }

// Params returns the type of the parameters, for the schema.
func (d Definition) Params() reflect.Type { return d.params }

// Build decodes the parameters, a JSON object or nothing, and makes an instance.
func (d Definition) Build(env Env, params json.RawMessage) (any, error) { return d.build(env, params) }

// Check tells what is wrong with the definition itself.
func (d Definition) Check() error {
	switch {
	case d.name == "":
		return errors.New("policy without a name")
	case d.build == nil:
		return fmt.Errorf("policy %q: made without Define", d.name)
	case len(d.phases) == 0:
		return fmt.Errorf("policy %q: its type has no phase method, such as OnRequestHeaders (a type of Define must be concrete)", d.name)
	case d.bodies.WholeRequest && d.bodies.RequestChunks:
		return fmt.Errorf("policy %q: its type has OnRequestBody and OnRequestChunk; legal is one of them", d.name)
	case d.bodies.WholeResponse && d.bodies.ResponseChunks:
		return fmt.Errorf("policy %q: its type has OnResponseBody and OnResponseChunk; legal is one of them", d.name)
	}
	return nil
}

// ParamError says what is wrong with a parameter.
type ParamError struct {
	// Param is the parameter's path, such as "algorithms[1]".
	Param string
	// Problem is what is wrong and what is legal.
	Problem string
}

func (e *ParamError) Error() string { return e.Param + ": " + e.Problem }

// BadParam makes a ParamError.
func BadParam(param, format string, args ...any) error {
	return &ParamError{Param: param, Problem: fmt.Sprintf(format, args...)}
}

func decode[C any](raw json.RawMessage) (C, error) {
	var c C
	if d, ok := any(&c).(interface{ Defaults() }); ok {
		d.Defaults()
	}
	if len(raw) == 0 {
		return c, nil
	}
	if !json.Valid(raw) {
		return c, errors.New("parameters: not one JSON value")
	}
	if kind := bytes.TrimSpace(raw)[0]; kind != '{' && reflect.TypeFor[C]().Kind() == reflect.Struct {
		return c, errors.New("parameters: not an object")
	}
	if problems := checkMembers("", raw, reflect.TypeFor[C]()); len(problems) > 0 {
		return c, errors.Join(problems...)
	}
	if err := unmarshalStrict(raw, &c); err != nil {
		return c, decodeError(err)
	}
	return c, nil
}

// unmarshalStrict refuses members that v does not have.
func unmarshalStrict(text []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

// decodeError turns an error of encoding/json into one that says which parameter, and what is legal.
func decodeError(err error) error {
	var typeErr *json.UnmarshalTypeError
	if errors.As(err, &typeErr) && typeErr.Field != "" {
		return BadParam(typeErr.Field, "%s is not legal here; want %s", typeErr.Value, kindName(typeErr.Type))
	}
	return fmt.Errorf("parameters: %w", err)
}

func kindName(t reflect.Type) string {
	if t == reflect.TypeFor[Duration]() {
		return "a duration, such as 500ms, 10s or 1h"
	}
	if reflect.PointerTo(t).Implements(textUnmarshaler) {
		return "a string"
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return fmt.Sprintf("a whole number of %d bits", t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number of %d bits, not negative", t.Bits())
	default:
		return "a number"
	}
}

// Duration is a parameter such as "500ms" (time.ParseDuration).
type Duration time.Duration

// UnmarshalText parses a Go duration.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration; legal is a number with a unit, such as 500ms, 10s or 1h", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText prints a Go duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }
