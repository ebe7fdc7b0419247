package policies_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
)

func mustParse(t testing.TB, text string) *policies.ClaimsSet {
	t.Helper()
	s, err := policies.ParseClaimsSet([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return s
}

func path(t testing.TB, s string) policies.ClaimPath {
	t.Helper()
	p, err := policies.ParseClaimPath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const nested = `{"sub":"alice","realm_access":{"roles":["admin","ops"]},"a.b":"dots","a":{"b":1.50,"":true},` +
	`"https://acme.example/roles":["x"],"a/b":"slash","m~n":"tilde","es\u0063":"\u00e9\n","none":null,"deep":[[{"k":"v"}]],"empty":{},"list":[]}`

func TestClaimPaths(t *testing.T) {
	s := mustParse(t, nested)
	for text, want := range map[string]string{
		"sub":                        `"alice"`,
		"/sub":                       `"alice"`,
		"/realm_access/roles":        `["admin","ops"]`,
		"/realm_access/roles/1":      `"ops"`,
		"/realm_access/roles/2":      "",
		"/realm_access/roles/01":     "",
		"/realm_access/roles/-1":     "",
		"/realm_access/roles/-":      "",
		"/realm_access/roles/0/x":    "",
		"realm_access.roles":         "",
		"realm_access":               `{"roles":["admin","ops"]}`,
		"a.b":                        `"dots"`,
		"/a/b":                       "1.50",
		"/a/":                        "true",
		"/a~1b":                      `"slash"`,
		"a/b":                        `"slash"`,
		"/m~0n":                      `"tilde"`,
		"https://acme.example/roles": `["x"]`,
		"esc":                        `"\u00e9\u000a"`,
		"none":                       "null",
		"/deep/0/0/k":                `"v"`,
		"/empty/x":                   "",
		"/list/0":                    "",
		"SUB":                        "",
		"/sub/0":                     "",
	} {
		v, got := s.Get(path(t, text)), ""
		if v.Kind() != policies.ClaimAbsent {
			got = string(v.AppendJSON(nil))
		}
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	for _, bad := range []string{"", "/a~", "/a~2b", "/" + strings.Repeat("a/", 16)} {
		if p, err := policies.ParseClaimPath(bad); err == nil {
			t.Errorf("%q: accepted as %v", bad, p)
		}
	}
}

func TestClaimPathInParameters(t *testing.T) {
	for text, want := range map[string]string{
		`"tenant"`:                 "tenant",
		`"/realm_access/roles"`:    "/realm_access/roles",
		`["realm_access","roles"]`: "/realm_access/roles",
		`["a/b","m~n"]`:            "/a~1b/m~0n",
		`["tenant"]`:               "tenant",
		`["/x"]`:                   "/~1x",
		`[""]`:                     "/",
		`""`:                       "error",
		`[]`:                       "error",
		`null`:                     "error",
		`1`:                        "error",
		`[1]`:                      "error",
		`{}`:                       "error",
	} {
		var p policies.ClaimPath
		got := "error"
		if json.Unmarshal([]byte(text), &p) == nil {
			got = p.String()
			if again := path(t, got); !reflect.DeepEqual(again, p) {
				t.Errorf("%s: %q reads as another path", text, got)
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestNamesThatLookLikePaths(t *testing.T) {
	for text, want := range map[string]string{
		"realm_access.roles":         "/realm_access/roles",
		"resource_access.my/x.roles": "",
		"https://acme.example/roles": "",
		"urn:acme.example":           "",
		"/realm_access.x/roles":      "",
		"tenant":                     "",
		"/a.b":                       "/a/b",
	} {
		if got := path(t, text).Literal(); (got == "") != (want == "") || !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, want a hint at %q", text, got, want)
		}
	}
}

func TestClaimsSetRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                  "",
		"a list":                   "[]",
		"two values":               "{}{}",
		"a repeated member":        `{"a":1,"a":1}`,
		"repeated, escaped":        `{"a":1,"\u0061":1}`,
		"repeated deep":            `{"x":[{"a":1,"a":2}]}`,
		"a lone surrogate":         `{"a":"\ud800"}`,
		"invalid UTF-8":            "{\"a\":\"\xff\"}",
		"invalid UTF-8 as a name":  "{\"\xff\":1}",
		"a comma at the end":       `{"a":1,}`,
		"a comma at a list's end":  `{"a":[1,]}`,
		"single quotes":            `{'a':1}`,
		"an open object":           `{"a":1`,
		"nested too deep":          strings.Repeat(`{"a":`, 17) + "1" + strings.Repeat("}", 17),
		"too large":                `{"a":"` + strings.Repeat("x", policies.MaxClaimsSize) + `"}`,
		"a number that is not one": `{"a":01}`,
	} {
		if s, err := policies.ParseClaimsSet([]byte(text)); err == nil {
			t.Errorf("%s: accepted as %s", name, s.JSON())
		}
	}
	mustParse(t, strings.Repeat(`{"a":`, 16)+"1"+strings.Repeat("}", 16))
}

// FuzzClaimsSet compares with encoding/json: what is accepted is the same value.
func FuzzClaimsSet(f *testing.F) {
	f.Add(nested)
	f.Add(`{"a":"\"x","b":"\\","c":"x\\\"y","\"":"\u0022"}`)
	f.Add(`{ "a" : [ 1 , -0.5e+7 , "\ud83d\ude00" , {} , [] , null , true , false ] }`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := policies.ParseClaimsSet([]byte(text))
		if err != nil {
			return
		}
		decode := func(text string) (v any) {
			dec := json.NewDecoder(strings.NewReader(text))
			dec.UseNumber()
			if err := dec.Decode(&v); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			return v
		}
		ascii := string(s.Root().AppendJSON(nil))
		if !reflect.DeepEqual(decode(text), decode(ascii)) || s.JSON() != text {
			t.Errorf("%q reads as %q", text, ascii)
		}
		if strings.ContainsFunc(ascii, func(c rune) bool { return c < ' ' || c >= 0x7f }) {
			t.Errorf("%q is not printable ASCII", ascii)
		}
		for name, v := range s.Root().All() {
			if p, err := policies.ClaimPathOf(name); err != nil || s.Get(p) != v {
				t.Errorf("claim %q is not at its path: %v", name, err)
			}
		}
	})
}

func TestClaimsSetSizes(t *testing.T) {
	for _, text := range []string{
		`{"a":[` + strings.Repeat("1,", 8000) + `1]}`,
		`{"a":[` + strings.Repeat("{},", 5000) + `{}]}`,
		`{"a":"` + strings.Repeat(`\u0061`, 2700) + `"}`,
	} {
		s := mustParse(t, text)
		if s.Size() > 20*len(text) || s.Size() < len(text) {
			t.Errorf("%.20s: %d bytes for a text of %d", text, s.Size(), len(text))
		}
	}
}

func TestIdentityCarriesTheClaimsSet(t *testing.T) {
	id := policies.Identity{Subject: "alice"}
	if id.ClaimsSet() != nil || id.CarriedClaims() != "" || id.ClaimsSet().Get(path(t, "sub")).Kind() != policies.ClaimAbsent {
		t.Error("an identity without a claims set has one")
	}
	id = id.WithClaimsSet(mustParse(t, nested))
	again := policies.Identity{Subject: "alice"}.WithCarriedClaims(id.CarriedClaims())
	if got, _ := again.ClaimsSet().Get(path(t, "/realm_access/roles/0")).Text(); got != "admin" {
		t.Errorf("carried: %q", got)
	}
	// What another worker sent is not trusted to be JSON.
	broken := policies.Identity{Subject: "alice"}.WithCarriedClaims(`{"a":1,"a":2}`)
	if broken.ClaimsSet() != nil {
		t.Error("a broken claims set is one")
	}
}

func TestClaimAt(t *testing.T) {
	id := policies.Identity{Subject: "alice", Claims: []policies.Entry{{Key: "org", Value: "acme"}, {Key: "sub", Value: "other"}}}.WithClaimsSet(mustParse(t, nested))
	for text, want := range map[string]string{
		"org": "acme true", "sub": "alice true", "/a/b": "1.50 true", "/realm_access/roles": `["admin","ops"] true`, "none": " false", "nothing": " false",
	} {
		value, ok := id.ClaimAt(path(t, text))
		if got := fmt.Sprint(value, " ", ok); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func BenchmarkClaimByPath(b *testing.B) {
	s := mustParse(b, `{"iss":"https://idp.example","aud":["api","web"],"exp":1,"iat":1,"nbf":1,"jti":"x","azp":"web","scope":"a b c","email":"a@b.example",`+
		`"email_verified":true,"name":"Alice","sub":"alice","resource_access":{"account":{"roles":["manage"]}},"realm_access":{"roles":["admin","ops"]}}`)
	p := path(b, "/realm_access/roles/1")
	b.ReportAllocs()
	for b.Loop() {
		if v, ok := s.Get(p).Text(); !ok || v != "ops" {
			b.Fatal(v)
		}
	}
}

func TestClaimByPathDoesNotAllocate(t *testing.T) {
	s, p := mustParse(t, nested), path(t, "/realm_access/roles/1")
	if n := testing.AllocsPerRun(1000, func() { s.Get(p).Text() }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
