package headername

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// tokenCharacters are all characters of a header name (RFC 9110 section 5.6.2) that are neither letters nor digits.
const tokenCharacters = "!#$%&'*+-.^_`|~"

// TestEveryTokenCharacterFolds: whatever stands for '-' in a name, the name is the same one.
func TestEveryTokenCharacterFolds(t *testing.T) {
	set := NewSet([]string{"X-User-ID"})
	for _, first := range tokenCharacters {
		for _, second := range tokenCharacters {
			name := fmt.Sprintf("x%cUsEr%cid", first, second)
			if !Equal(name, "x-user-id") || !set.Has([]byte(name)) || Fold(name) != "x-user-id" {
				t.Errorf("%q is not x-user-id", name)
			}
		}
	}
	for _, other := range []string{"", "x-user-i", "x-user-idd", "xuserid", "x-user-ie", "x1user-id", "x-us-r-id", ":-user-id", "y-user-id"} {
		if set.Has([]byte(other)) {
			t.Errorf("%q is x-user-id", other)
		}
	}
}

// TestLettersAndDigitsDoNotFold: names that differ in a letter or a digit are not the same.
func TestLettersAndDigitsDoNotFold(t *testing.T) {
	alphanumeric := func(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }
	for i := range 256 {
		for j := range 256 {
			a, b := byte(i), byte(j)
			la, lb := bytes.ToLower([]byte{a})[0], bytes.ToLower([]byte{b})[0]
			if a >= 0x80 {
				la = a
			}
			if b >= 0x80 {
				lb = b
			}
			want := la == lb || !alphanumeric(la) && !alphanumeric(lb)
			if got := Equal([]byte{'x', a}, []byte{'x', b}); got != want {
				t.Fatalf("%q and %q: equal is %t, want %t", a, b, got, want)
			}
		}
	}
}

// TestSetAgainstList: a set has what a list of its names has, each by Equal.
func TestSetAgainstList(t *testing.T) {
	name := rapid.StringMatching("[xX]?[-_.+!a-cA-C0-2]{1,8}(long){0,20}")
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOf(name).Draw(t, "names")
		set := NewSet(names)
		for _, asked := range append(rapid.SliceOf(name).Draw(t, "others"), names...) {
			want := slices.ContainsFunc(names, func(n string) bool { return Equal(n, asked) })
			if got := set.Has([]byte(asked)); got != want {
				t.Fatalf("%q in %q: %t, want %t", asked, names, got, want)
			}
		}
	})
	if (*Set)(nil).Has([]byte("x")) || (*Set)(nil).Len() != 0 {
		t.Error("a nil set has names")
	}
}

func TestReserved(t *testing.T) {
	for _, name := range []string{":path", "Host", "content-type", "content_type", "Authorization", "cookie", "x-request-id", "X.Envoy.Foo", "x-envoy-" + strings.Repeat("a", 100)} {
		if !Reserved(name) {
			t.Errorf("%q is not reserved", name)
		}
	}
	for _, name := range []string{"x-user-id", "X-Tenant", "x-envoy", "x-api-key", "x-forwarded-user", strings.Repeat("a", 100)} {
		if Reserved(name) {
			t.Errorf("%q is reserved", name)
		}
	}
}

// typical are the headers of a browser's request as Envoy sends it.
var typical = func() (names [][]byte) {
	for name := range strings.FieldsSeq(":authority :path :method :scheme user-agent accept accept-encoding x-forwarded-for x-forwarded-proto x-request-id x-api-key content-type") {
		names = append(names, []byte(name))
	}
	return names
}()

func TestHasDoesNotAllocate(t *testing.T) {
	set := NewSet([]string{"X-User-ID", "X-Tenant"})
	if n := testing.AllocsPerRun(100, func() {
		for _, name := range typical {
			if set.Has(name) || Reserved(name) == (string(name) == "x-api-key") {
				t.Fatal(string(name))
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkHas is what a request of twelve headers costs, none of which is owned.
func BenchmarkHas(b *testing.B) {
	for _, n := range []int{2, 20} {
		names := []string{"X-User-ID", "X-Tenant"}
		for i := len(names); i < n; i++ {
			names = append(names, fmt.Sprintf("x-claim-%d", i*i))
		}
		b.Run(fmt.Sprintf("names=%d", n), func(b *testing.B) {
			set := NewSet(names)
			b.ReportAllocs()
			for b.Loop() {
				for _, name := range typical {
					if set.Has(name) {
						b.Fatal(string(name))
					}
				}
			}
		})
	}
}

func FuzzEqual(f *testing.F) {
	f.Add("x-user-id", "X_User.Id")
	f.Fuzz(func(t *testing.T, a, b string) {
		if Equal(a, b) != (Fold(a) == Fold(b)) {
			t.Errorf("%q and %q", a, b)
		}
		if a != "" && a[0] != ':' && !NewSet([]string{a}).Has([]byte(Fold(a))) {
			t.Errorf("%q is not in its own set", a)
		}
	})
}
