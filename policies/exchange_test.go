package policies_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func TestResponse(t *testing.T) {
	x := begin(t, policytest.Request{Path: "/a", Headers: []string{"x-a: 1"}})
	if err := x.Replay(policies.Change{Kind: policies.SetHeader, Name: "x-a", Value: []byte("2")}); err != nil {
		t.Fatal(err)
	}
	x.ReplayIdentity(policies.Identity{Subject: "alice"})
	x.ReplayMetadata(policies.Entry{Key: "k", Value: "v"})
	if err := x.BeginResponse(policytest.Response{Status: 503, Headers: []string{"server: up"}}.HeaderMap(), true); err != nil {
		t.Fatal(err)
	}
	r := x.Response()
	if a, _ := r.Request().Header("x-a"); r.Status() != 503 || !r.EndOfStream() || string(a) != "2" || r.Identity().Subject != "alice" {
		t.Errorf("status %d, x-a %q, identity %v", r.Status(), a, r.Identity())
	}
	if v, ok := r.Metadata("k"); v != "v" || !ok {
		t.Errorf("metadata %q, %v", v, ok)
	}
	r.SetStatus(404)
	r.SetHeader("X-B", "1")
	r.AppendHeader("x-b", "2")
	r.RemoveHeader("Server")
	r.SetMetadata("k", "w")
	if v, n := r.Header("x-b"); x.Err() != nil || r.Status() != 404 || string(v) != "1" || n != 2 {
		t.Errorf("status %d, x-b %q %d times, %v", r.Status(), v, n, x.Err())
	}
	var got []string
	for _, c := range x.Changes() {
		got = append(got, fmt.Sprint(c.Kind, c.Response, c.Name, string(c.Value)))
	}
	if want := []string{"6 true404", "1 truex-b1", "2 truex-b2", "3 trueserver"}; !slices.Equal(got, want) || len(x.AllChanges()) != 5 {
		t.Errorf("changes %q, want %q; all %d", got, want, len(x.AllChanges()))
	}
	r.Request().SetHeader("x-a", "3")
	if err := x.Err(); err == nil || !strings.Contains(err.Error(), "gone upstream") {
		t.Errorf("the request could be changed in a response phase: %v", err)
	}
}

func TestIllegalStatus(t *testing.T) {
	for _, status := range []int{-200, 0, 20, 100, 199, 600, 999, 1000, 2000} {
		x := begin(t, policytest.Request{})
		if err := x.BeginResponse(policytest.Response{}.HeaderMap(), true); err != nil {
			t.Fatal(err)
		}
		x.Response().SetStatus(status)
		if x.Err() == nil || x.Response().Status() != 200 {
			t.Errorf("status %d is accepted", status)
		}
	}
	x := begin(t, policytest.Request{})
	if err := x.BeginResponse(nil, true); err != nil || x.Response().Status() != 0 {
		t.Errorf("a response without a status has %d, %v", x.Response().Status(), err)
	}
}

func TestReplayComesFirst(t *testing.T) {
	x := begin(t, policytest.Request{})
	if err := x.Replay(policies.Change{Kind: policies.SetHeader, Name: "x-a", Value: []byte("a\nb")}); err == nil {
		t.Error("an illegal change can be replayed")
	}
	x = begin(t, policytest.Request{})
	if err := x.Replay(policies.Change{Kind: 99}); err == nil {
		t.Error("a change of unknown kind can be replayed")
	}
	x = begin(t, policytest.Request{})
	x.Request().SetHeader("x-a", "1")
	if err := x.Replay(policies.Change{Kind: policies.RemoveHeader, Name: "x-a"}); err == nil {
		t.Error("replay after a policy ran")
	}
}

func TestMetadataAndIdentity(t *testing.T) {
	x := begin(t, policytest.Request{})
	r := x.Request()
	if _, ok := r.Metadata("a"); ok || r.Identity() != nil {
		t.Error("something out of nothing")
	}
	r.SetMetadata("a", "1")
	r.SetMetadata("b", "2")
	r.SetMetadata("a", "")
	if v, ok := r.Metadata("a"); v != "" || !ok {
		t.Errorf("a is %q, %v", v, ok)
	}
	if got := x.Metadata(); !slices.Equal(got, []policies.Entry{{Key: "a"}, {Key: "b", Value: "2"}}) {
		t.Errorf("metadata %v", got)
	}
	r.SetIdentity(policies.Identity{Subject: "alice", Scopes: []string{"read"}, Claims: []policies.Entry{{Key: "org", Value: "acme"}}})
	id := r.Identity()
	if !id.HasScope("read") || id.HasScope("rea") {
		t.Error("scopes")
	}
	if v, ok := id.Claim("org"); v != "acme" || !ok {
		t.Errorf("claim %q, %v", v, ok)
	}
	if _, ok := id.Claim("other"); ok {
		t.Error("a claim out of nothing")
	}
	x.Reset()
	if err := x.BeginRequest("r", policytest.Request{}.HeaderMap(), true); err != nil {
		t.Fatal(err)
	}
	if _, ok := x.Request().Metadata("b"); ok || x.Request().Identity() != nil || len(x.AllChanges()) != 0 {
		t.Error("Reset left something to the next request")
	}
}

func TestPoison(t *testing.T) {
	x := begin(t, policytest.Request{})
	if err := x.BeginResponse(policytest.Response{}.HeaderMap(), true); err != nil {
		t.Fatal(err)
	}
	r, s := x.Request(), x.Response()
	x.Poison()
	for name, use := range map[string]func(){
		"Route": func() { r.Route() }, "Method": func() { r.Method() }, "Path": func() { r.Path() }, "ID": func() { r.ID() },
		"Header": func() { r.Header("a") }, "Headers": func() { r.Headers() }, "Query": func() { r.Query("a") }, "Cookie": func() { r.Cookie("a") },
		"ClientAddress": func() { r.ClientAddress() }, "Identity": func() { r.Identity() }, "SetIdentity": func() { r.SetIdentity(policies.Identity{Subject: "a"}) },
		"Metadata": func() { r.Metadata("a") }, "SetMetadata": func() { r.SetMetadata("a", "b") }, "SetHeader": func() { r.SetHeader("a", "b") },
		"AppendHeader": func() { r.AppendHeader("a", "b") }, "RemoveHeader": func() { r.RemoveHeader("a") }, "RemoveSpellings": func() { r.RemoveSpellings("a") },
		"Spellings": func() { r.Spellings("a") }, "SetPath": func() { r.SetPath("/") }, "SetQuery": func() { r.SetQuery("a", "b") },
		"RemoveQuery": func() { r.RemoveQuery("a") }, "SetMethod": func() { r.SetMethod("PUT") },
		"Response.Status": func() { s.Status() }, "Response.Request": func() { s.Request() }, "Response.Header": func() { s.Header("a") },
		"Response.Headers": func() { s.Headers() }, "Response.SetHeader": func() { s.SetHeader("a", "b") }, "Response.SetStatus": func() { s.SetStatus(200) },
	} {
		func() {
			defer func() {
				if err, ok := recover().(error); !ok || !errors.Is(err, policies.ErrAfterCall) {
					t.Errorf("%s can be used after the call", name)
				}
			}()
			use()
		}()
	}
	x.Revive()
	if r.Route() != "orders" {
		t.Error("Revive does not end Poison")
	}
}

// operation is a change that a policy might make.
// removesSpellings is the kind of operation that a rollback leaves.
const removesSpellings = 3

type operation struct {
	kind        int
	name, value string
}

func (o operation) apply(r *policies.Request) {
	switch o.kind {
	case 0:
		r.SetHeader(o.name, o.value)
	case 1:
		r.AppendHeader(o.name, o.value)
	case 2:
		r.RemoveHeader(o.name)
	case removesSpellings:
		r.RemoveSpellings(o.name)
	case 4:
		r.SetPath("/" + o.name)
	case 5:
		r.SetQuery(o.name, o.value)
	case 6:
		r.RemoveQuery(o.name)
	case 7:
		r.SetMethod(strings.ToUpper(o.name))
	case 8:
		r.SetMetadata(o.name, o.value)
	case 9:
		r.SetIdentity(policies.Identity{Subject: o.name})
	}
}

var (
	someName   = rapid.SampledFrom([]string{"a", "A", "x-a", "X-a", "x_a", "x-b", "cookie", "user-agent"})
	someValue  = rapid.SampledFrom([]string{"", "1", "2", "three", "a&b=c d"})
	operations = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) operation {
		return operation{rapid.IntRange(0, 9).Draw(t, "kind"), someName.Draw(t, "name"), someValue.Draw(t, "value")}
	}), 0, 12)
	requests = rapid.Custom(func(t *rapid.T) policytest.Request {
		r := policytest.Request{Path: rapid.SampledFrom([]string{"/", "/p?a=1&x-a&b=%61", "/?", "/p?A&a=2&a"}).Draw(t, "path")}
		for range rapid.IntRange(0, 6).Draw(t, "headers") {
			r.Headers = append(r.Headers, someName.Draw(t, "name")+": "+someValue.Draw(t, "value"))
		}
		return r
	})
)

// state is all that policies see.
func state(x *policies.Exchange) string {
	id, ok := x.Identity()
	return fmt.Sprintf("%q %v %v %v", view(x), x.Metadata(), *id, ok)
}

// The kernel carries changes from call to call and replays them: what a later worker sees is what the earlier one saw.
func TestReplayingChangesGivesTheSameView(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		request := requests.Draw(t, "request")
		first := new(policies.Exchange)
		if err := first.BeginRequest("r", request.HeaderMap(), true); err != nil {
			t.Fatal(err)
		}
		for _, o := range operations.Draw(t, "operations") {
			o.apply(first.Request())
		}
		if first.Err() != nil {
			t.Fatal(first.Err())
		}
		second := new(policies.Exchange)
		if err := second.BeginRequest("r", request.HeaderMap(), true); err != nil {
			t.Fatal(err)
		}
		for _, c := range first.Changes() {
			if err := second.Replay(c); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(view(first), view(second)) {
			t.Fatalf("first %q, second %q", view(first), view(second))
		}
		if len(second.Changes()) != 0 || len(second.AllChanges()) != len(first.Changes()) {
			t.Fatalf("replays are recorded as new: %d of %d", len(second.Changes()), len(second.AllChanges()))
		}
	})
}

// A policy that failed changed nothing, but for the spellings that it removed: neither after a rollback, nor in an exchange made of a snapshot.
func TestRollbackAndSnapshotGiveTheStateOfTheMark(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		request := requests.Draw(t, "request")
		x := new(policies.Exchange)
		if err := x.BeginRequest("r", request.HeaderMap(), true); err != nil {
			t.Fatal(err)
		}
		for _, o := range operations.Draw(t, "before") {
			o.apply(x.Request())
		}
		want, changes, mark := state(x), len(x.Changes()), x.Mark()
		for _, o := range operations.Draw(t, "after") {
			if o.kind != removesSpellings {
				o.apply(x.Request())
			}
		}
		if rapid.Bool().Draw(t, "illegal") {
			x.Request().SetHeader("", "")
		}
		copied, err := x.Snapshot(mark).Exchange(request.HeaderMap(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := state(copied); got != want || len(copied.Changes()) != changes {
			t.Fatalf("snapshot %s, want %s", got, want)
		}
		if err := x.Rollback(mark, request.HeaderMap(), nil); err != nil {
			t.Fatal(err)
		}
		if got := state(x); got != want || len(x.Changes()) != changes || x.Err() != nil {
			t.Fatalf("rolled back %s, want %s", got, want)
		}
	})
}

func TestRollbackOfAResponse(t *testing.T) {
	request, response := policytest.Request{Headers: []string{"x-a: 1"}}.HeaderMap(), policytest.Response{Headers: []string{"x-b: 1"}}.HeaderMap()
	x := new(policies.Exchange)
	if err := x.BeginRequest("r", request, true); err != nil {
		t.Fatal(err)
	}
	if err := x.Replay(policies.Change{Kind: policies.SetHeader, Name: "x-a", Value: []byte("2")}); err != nil {
		t.Fatal(err)
	}
	if err := x.BeginResponse(response, true); err != nil {
		t.Fatal(err)
	}
	mark := x.Mark()
	x.Response().SetHeader("x-b", "2")
	x.Response().SetStatus(500)
	if err := x.Rollback(mark, request, response); err != nil {
		t.Fatal(err)
	}
	a, _ := x.Response().Request().Header("x-a")
	b, _ := x.Response().Header("x-b")
	if string(a) != "2" || string(b) != "1" || x.Response().Status() != 200 || len(x.Changes()) != 0 {
		t.Errorf("x-a %q, x-b %q, status %d", a, b, x.Response().Status())
	}
	x.Request().SetHeader("x-a", "3")
	if x.Err() == nil {
		t.Error("after the rollback, the request can be changed")
	}
}

func TestRemovedSpellingsStayRemovedWhenTheirPolicyFails(t *testing.T) {
	headers := headermap.AppendField(nil, ":path", "/")
	headers = headermap.AppendField(headers, "x_user-id", "mallory")
	headers = headermap.AppendField(headers, "x-plain", "1")
	begin := func() (*policies.Exchange, policies.Mark) {
		x := new(policies.Exchange)
		if err := x.BeginRequest("r", headers, true); err != nil {
			t.Fatal(err)
		}
		mark := x.Mark()
		x.Request().RemoveSpellings("X-User-ID")
		x.Request().SetHeader("x-user-id", "half-way")
		x.Request().RemoveHeader("x-plain")
		return x, mark
	}
	check := func(t *testing.T, x *policies.Exchange) {
		t.Helper()
		if n := x.Request().Spellings("x-user-id"); n != 0 {
			t.Errorf("%d spellings of the identity header are left", n)
		}
		if _, n := x.Request().Header("x-plain"); n != 1 {
			t.Error("an ordinary removal was not undone")
		}
		if got := x.Changes(); len(got) != 1 || got[0].Kind != policies.RemoveHeader || got[0].Name != "x_user-id" {
			t.Errorf("changes %v, want the removal alone", got)
		}
	}
	t.Run("rollback", func(t *testing.T) {
		x, mark := begin()
		if err := x.Rollback(mark, headers, nil); err != nil {
			t.Fatal(err)
		}
		check(t, x)
	})
	t.Run("snapshot", func(t *testing.T) {
		x, mark := begin()
		clone, err := x.Snapshot(mark).Exchange(headers, nil)
		if err != nil {
			t.Fatal(err)
		}
		check(t, clone)
	})
}
