package policies_test

import (
	"fmt"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

// typical is a request with as many headers as browsers send.
func typical() []byte {
	r := policytest.Request{Path: "/orders?page=2&key=abc", Headers: []string{"cookie: session=1; key=2", "x-forwarded-for: 192.0.2.7", "x-request-id: 42"}}
	for i := range 12 {
		r.Headers = append(r.Headers, fmt.Sprintf("x-header-%d: value %d", i, i))
	}
	return r.HeaderMap()
}

// hotPath is what the policies of a common chain do to a request.
func hotPath(x *policies.Exchange, headerMap []byte, id policies.Identity) error {
	x.Reset()
	if err := x.BeginRequest("orders", headerMap, true); err != nil {
		return err
	}
	r := x.Request()
	_ = x.Mark()
	r.RemoveSpellings("x-user-id")
	r.Header("x-header-3")
	r.Query("key")
	r.Cookie("key")
	r.ClientAddress()
	r.SetIdentity(id)
	r.SetHeader("x-user-id", id.Subject)
	r.AppendHeader("x-more", "1")
	r.RemoveHeader("x-header-5")
	r.SetMetadata("k", "v")
	r.SetMetadata("k", "w")
	r.Metadata("k")
	for range r.Headers() {
	}
	return x.Err()
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	x, headerMap, id := new(policies.Exchange), typical(), policies.Identity{Subject: "alice", Scopes: []string{"read"}}
	if n := testing.AllocsPerRun(100, func() {
		if err := hotPath(x, headerMap, id); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkHotPath(b *testing.B) {
	x, headerMap, id := new(policies.Exchange), typical(), policies.Identity{Subject: "alice", Scopes: []string{"read"}}
	b.ReportAllocs()
	for b.Loop() {
		if err := hotPath(x, headerMap, id); err != nil {
			b.Fatal(err)
		}
	}
}
