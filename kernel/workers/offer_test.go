package workers

import (
	"slices"
	"testing"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

func TestOfferOfReplicas(t *testing.T) {
	d := func(names ...string) (all []*workerv1.PolicyDescriptor) {
		for _, n := range names {
			all = append(all, &workerv1.PolicyDescriptor{Name: n})
		}
		return all
	}
	tests := []struct {
		name     string
		replicas []*replica
		want     []string
	}{
		{"none discovered", []*replica{{}, {}}, nil},
		{"one discovered", []*replica{{}, {discovered: true, policies: d("a", "b")}}, []string{"a", "b"}},
		{"what each has", []*replica{{discovered: true, policies: d("a", "b")}, {discovered: true, policies: d("b", "c")}}, []string{"b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := Worker{replicas: tt.replicas}
			o := w.offer()
			var got []string
			for _, p := range o.policies {
				got = append(got, p.Name)
			}
			if !slices.Equal(got, tt.want) || o.discovered != (tt.want != nil) {
				t.Errorf("got %v, %t; want %v", got, o.discovered, tt.want)
			}
		})
	}
}
