package policies_test

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func FuzzQuery(f *testing.F) {
	for _, query := range []string{"a=1", "a=1&a=2&b", "%61=%20+", "a=%zz&=&&a", "a;b=1", "?"} {
		f.Add(query, "a", "v")
	}
	f.Fuzz(func(t *testing.T, query, name, value string) {
		x := begin(t, policytest.Request{Path: "/p?" + query})
		r := x.Request()
		got, n := r.Query(name)
		// net/url refuses semicolons, and drops empty pairs.
		if values, err := url.ParseQuery(query); err == nil && name != "" {
			if len(values[name]) != n || n > 0 && string(got) != values[name][0] {
				t.Errorf("%q in %q: %q, %d times; net/url reads %q", name, query, got, n, values[name])
			}
		}
		if name == "" || strings.ContainsFunc(query, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '#' }) {
			return // The new path would be as illegal as the old one is: the change is refused.
		}
		r.RemoveQuery(name)
		if _, n := r.Query(name); n != 0 {
			t.Errorf("%q is still in %q", name, r.Path())
		}
		r.SetQuery(name, value)
		if got, n := r.Query(name); x.Err() != nil || n != 1 || string(got) != value {
			t.Errorf("%q set to %q reads %q, %d times, in %q: %v", name, value, got, n, r.Path(), x.Err())
		}
	})
}

func FuzzCookie(f *testing.F) {
	f.Add("a=1; b=2", "a=\"3\"", "a")
	f.Add(";;=; a", "", "")
	f.Fuzz(func(t *testing.T, first, second, name string) {
		r := begin(t, policytest.Request{Headers: []string{"cookie: " + first, "cookie: " + second}}).Request()
		value, n := r.Cookie(name)
		if n < 0 || n > strings.Count(first+second, name+"=") {
			t.Errorf("%q: %d times in %q and %q", name, n, first, second)
		}
		if n > 0 && !strings.Contains(first+";"+second, string(value)) {
			t.Errorf("%q has a value from nowhere: %q", name, value)
		}
	})
}

// What is accepted as a path can't end the request line or begin another one.
func FuzzSetPath(f *testing.F) {
	for _, path := range []string{"/", "*", "/a?b#c", "//a", "/\r\n", "/ä", "\x00"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		x := begin(t, policytest.Request{Path: "/old"})
		x.Request().SetPath(path)
		if x.Err() != nil {
			if string(x.Request().Path()) != "/old" || len(x.Changes()) != 0 {
				t.Errorf("%q was refused and is there", path)
			}
			return
		}
		if strings.ContainsAny(path, " \t\r\n\x00#") || path == "" || path[0] != '/' && path != "*" || string(x.Request().Path()) != path {
			t.Errorf("%q was accepted", path)
		}
	})
}

// Whatever the headers are: those that are accepted stay the same in number, and a header that is set is read back.
func FuzzHeaders(f *testing.F) {
	f.Add(policytest.Request{Headers: []string{"x-a: 1", "x_a: 2"}}.HeaderMap(), "x-a", "3")
	f.Fuzz(func(t *testing.T, headerMap []byte, name, value string) {
		x := new(policies.Exchange)
		if x.BeginRequest("r", headerMap, true) != nil {
			return
		}
		r := x.Request()
		r.ClientAddress()
		r.SetHeader(name, value)
		if (x.Err() == nil) != (policies.CheckHeader(name, value) == nil) {
			t.Fatalf("CheckHeader and SetHeader disagree on %q: %v", name, x.Err())
		}
		if got, n := r.Header(name); x.Err() == nil && (n != 1 || string(got) != value) {
			t.Errorf("%q is %q, %d times", name, got, n)
		}
		if x.Err() != nil {
			return
		}
		r.RemoveSpellings(name)
		if n := r.Spellings(name); n != 0 {
			t.Errorf("%d spellings of %q are left", n, name)
		}
	})
}

func FuzzClientAddress(f *testing.F) {
	for _, seed := range []string{"1.1.1.1, 2001:db8::1%eth0", "192.0.2.1:443", "[2001:db8::1]", "[::ffff:192.0.2.1%a]:80", "1.1.1.1%000000000::000", "[1.1.1.1%0::0]:80"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got := begin(t, policytest.Request{Headers: []string{"x-forwarded-for: " + value}}).Request().ClientAddress()
		last := strings.Trim(value[strings.LastIndexByte(value, ',')+1:], " \t")
		plain, err := netip.ParseAddr(last)
		if err == nil && len(last) <= 128 && got != plain.Unmap().WithZone("") {
			t.Errorf("%q: %v, want %v", value, got, plain)
		}
		if !got.IsValid() || err == nil {
			return
		}
		// Not a plain address: there is a port, or brackets.
		withPort, err := netip.ParseAddrPort(last)
		if err != nil {
			withPort, err = netip.ParseAddrPort(last + ":0")
		}
		if err != nil || got != withPort.Addr().Unmap().WithZone("") {
			t.Errorf("%q: %v, want %v", value, got, withPort)
		}
	})
}
