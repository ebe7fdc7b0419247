// Package compare measures the engine against what else Envoy can do with a request: in one run, in turns, each row with the same Envoy and the same load.
package compare

import (
	"fmt"
	"slices"
	"strings"

	"github.com/policy-engine/policy-engine/loadtest/rig"
)

// Row is one of what is compared.
type Row struct {
	Name string
	Spec rig.Spec
	// Cold sends tokens that nobody has seen before.
	Cold bool
}

// Rows returns all rows, in the order of the table.
func Rows() []Row {
	chain := func(n int) []string { return rig.DefaultChain[:n] }
	engine := func(name string, spec rig.Spec) Row {
		spec.Asked = rig.Engine
		return Row{Name: name, Spec: spec}
	}
	rows := []Row{
		{Name: "envoy"},
		{Name: "envoy-native", Spec: rig.Spec{Asked: rig.Native}},
		{Name: "envoy-native-jwt-cache", Spec: rig.Spec{Asked: rig.NativeCached}},
		{Name: "noop-grpc", Spec: rig.Spec{Asked: rig.NoOp, Program: "noop-grpc"}},
		{Name: "noop-grpc-plain", Spec: rig.Spec{Asked: rig.NoOp, Program: "noop-grpc-plain"}},
		{Name: "noop-fast", Spec: rig.Spec{Asked: rig.NoOp, Program: "noop-fast"}},
		engine("engine-0-fast", rig.Spec{}),
		engine("engine-1-fast", rig.Spec{Chain: chain(1)}),
		engine("engine-3-fast", rig.Spec{Chain: chain(3)}),
		engine("engine-3-fast-traced", rig.Spec{Chain: chain(3), Traced: 0.01}),
		engine("engine-3-grpc", rig.Spec{Chain: chain(3), Transport: "grpc"}),
		engine("engine-3-fast-2-workers", rig.Spec{Chain: chain(3), Workers: 2}),
		engine("engine-3-one-process", rig.Spec{Chain: chain(3), OneProcess: true}),
		engine("engine-3-fast-cold", rig.Spec{Chain: chain(3)}),
	}
	rows[len(rows)-1].Cold = true
	return rows
}

// connectionRows are those of the table for several numbers of connections.
var connectionRows = []string{"envoy", "noop-grpc", "noop-fast", "engine-3-fast", "engine-3-one-process"}

// choose returns the rows of those names, in the order of the table.
func choose(rows []Row, names []string) ([]Row, error) {
	var legal []string
	for _, r := range rows {
		legal = append(legal, r.Name)
	}
	for _, name := range names {
		if !slices.Contains(legal, name) {
			return nil, fmt.Errorf("there is no row %q; legal are %s", name, strings.Join(legal, ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return !slices.Contains(names, r.Name) }), nil
}
