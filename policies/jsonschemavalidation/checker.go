package jsonschemavalidation

import (
	"encoding/json"
	"fmt"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// maxKept is how many checkers are kept for later bodies.
const maxKept = 32

// errTooLong is the panic that ends a check that has used up its steps: the library has no other way out.
var errTooLong = fmt.Errorf("the schema takes too many steps on it")

// checker is a compiled schema that counts its steps. A schema that refers to itself from several branches may take steps without number on a small body: each level of the body
// multiplies them. It checks one body at a time.
type checker struct {
	schema *jsonschema.Schema
	left   int
}

// Validate implements jsonschema.SchemaExt: the library calls it for each schema that it has applied to a value.
func (c *checker) Validate(_ *jsonschema.ValidatorContext, value any) {
	cost := 1
	switch value := value.(type) {
	case map[string]any:
		cost += len(value)
	case []any:
		cost += len(value)
	}
	if c.left -= cost; c.left < 0 {
		panic(errTooLong)
	}
}

// check returns what is wrong with the value, which may be errTooLong.
func (c *checker) check(value any, steps int) (err error) {
	c.left = steps
	defer func() {
		switch p := recover(); p {
		case nil:
		case errTooLong:
			err = errTooLong
		default:
			panic(p)
		}
	}()
	return c.schema.Validate(value)
}

// checkers makes checkers of one schema and keeps them.
type checkers struct {
	raw     json.RawMessage
	formats bool
	free    chan *checker
}

// newCheckers makes the first one, or says what is wrong with the schema.
func newCheckers(raw json.RawMessage, formats bool) (*checkers, error) {
	s := &checkers{raw: raw, formats: formats, free: make(chan *checker, maxKept)}
	c, err := compile(raw, formats)
	if err != nil {
		return nil, err
	}
	s.free <- c
	return s, nil
}

// check is that of a checker that is free. The second error means that there is none.
func (s *checkers) check(value any, steps int) (invalid, failed error) {
	var c *checker
	select {
	case c = <-s.free:
	default:
		var err error
		if c, err = compile(s.raw, s.formats); err != nil {
			return nil, fmt.Errorf("compile schema: %w", err)
		}
	}
	invalid = c.check(value, steps)
	select {
	case s.free <- c:
	default:
	}
	return invalid, nil
}

var _ jsonschema.SchemaExt = (*checker)(nil)
