package policies_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

const noAddress = "invalid IP"

func TestParseClientAddress(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1":                       "192.0.2.1",
		" \t192.0.2.1\t ":                 "192.0.2.1",
		"192.0.2.1:0":                     "192.0.2.1",
		"192.0.2.1:65535":                 "192.0.2.1",
		"2001:db8::1":                     "2001:db8::1",
		"2001:DB8:0:0:0:0:0:1":            "2001:db8::1",
		"[2001:db8::1]":                   "2001:db8::1",
		"[2001:db8::1]:443":               "2001:db8::1",
		"::ffff:192.0.2.1":                "192.0.2.1",
		"::FFFF:c000:201":                 "192.0.2.1",
		"[::ffff:192.0.2.1]:80":           "192.0.2.1",
		"fe80::1%eth0":                    "fe80::1",
		"[fe80::1%25eth0]:80":             "fe80::1",
		"::ffff:192.0.2.1%eth0":           "192.0.2.1",
		"":                                noAddress,
		" ":                               noAddress,
		"unknown":                         noAddress,
		"_hidden":                         noAddress,
		"_SEVKISEK":                       noAddress,
		"-":                               noAddress,
		"example.com":                     noAddress,
		"example.com:80":                  noAddress,
		"@/run/envoy.sock":                noAddress,
		"192.0.2":                         noAddress,
		"192.0.2.01":                      noAddress,
		"192.0.2.256":                     noAddress,
		"0xc0.0.2.1":                      noAddress,
		"3221225985":                      noAddress,
		"192.0.2.0/24":                    noAddress,
		"192.0.2.1 192.0.2.2":             noAddress,
		"192.0.2.1,192.0.2.2":             noAddress,
		"192.0.2.1:":                      noAddress,
		"192.0.2.1:65536":                 noAddress,
		"192.0.2.1:000080":                noAddress,
		"192.0.2.1:8x":                    noAddress,
		"192.0.2.1:-1":                    noAddress,
		"192.0.2.1:_port":                 noAddress,
		"[192.0.2.1]":                     noAddress,
		"[192.0.2.1]:80":                  noAddress,
		"[2001:db8::1":                    noAddress,
		"2001:db8::1]":                    noAddress,
		"[2001:db8::1]80":                 noAddress,
		"[2001:db8::1]:":                  noAddress,
		"[]":                              noAddress,
		"[]:80":                           noAddress,
		"[[::1]]":                         noAddress,
		"192.0.2.1%eth0":                  noAddress,
		"fe80::1%":                        noAddress,
		"1.1.1.1%0::0":                    noAddress,
		"1.1.1.1%eth0":                    noAddress,
		"[1.1.1.1%0::0]:80":               noAddress,
		"%eth0":                           noAddress,
		"\"[2001:db8::1]:443\"":           noAddress,
		"for=192.0.2.1":                   noAddress,
		"\xff":                            noAddress,
		"192.0.2.1\x00":                   noAddress,
		"2001:db8::1:" + "1" + ":::":      noAddress,
		"::1%" + strings.Repeat("e", 200): noAddress,
	} {
		got, ok := policies.ParseClientAddress([]byte(text))
		if got.String() != want || ok != (want != noAddress) {
			t.Errorf("%q: %v, %v; want %s", text, got, ok, want)
		}
	}
}

func TestClientAddress(t *testing.T) {
	lines := func(values ...string) (out []string) {
		for _, v := range values {
			out = append(out, "x-forwarded-for: "+v)
		}
		return out
	}
	for name, c := range map[string]struct {
		request policytest.Request
		want    string
	}{
		"no header":                {policytest.Request{}, noAddress},
		"one entry":                {policytest.Request{Headers: lines("192.0.2.1")}, "192.0.2.1"},
		"the last entry":           {policytest.Request{Headers: lines("1.1.1.1, 192.0.2.1")}, "192.0.2.1"},
		"the last line":            {policytest.Request{Headers: []string{"x-forwarded-for: 1.1.1.1", "X-Forwarded-For: 2.2.2.2,192.0.2.1"}}, "192.0.2.1"},
		"the last is no address":   {policytest.Request{Headers: lines("192.0.2.1, unknown")}, noAddress},
		"the last is empty":        {policytest.Request{Headers: lines("192.0.2.1,")}, noAddress},
		"an empty line at the end": {policytest.Request{Headers: lines("192.0.2.1", "")}, noAddress},

		"one hop":                   {policytest.Request{TrustedHops: 1, Headers: lines("6.6.6.6, 192.0.2.1, 10.0.0.1")}, "192.0.2.1"},
		"one hop over two lines":    {policytest.Request{TrustedHops: 1, Headers: lines("6.6.6.6, 192.0.2.1", "10.0.0.1")}, "192.0.2.1"},
		"two hops over three lines": {policytest.Request{TrustedHops: 2, Headers: lines("6.6.6.6,192.0.2.1", "10.0.0.1", "10.0.0.2")}, "192.0.2.1"},
		"two hops, first of a line": {policytest.Request{TrustedHops: 2, Headers: lines("6.6.6.6", "192.0.2.1, 10.0.0.1 ,10.0.0.2")}, "192.0.2.1"},
		"exactly as many entries":   {policytest.Request{TrustedHops: 2, Headers: lines("192.0.2.1, 10.0.0.1, 10.0.0.2")}, "192.0.2.1"},
		"fewer entries than hops":   {policytest.Request{TrustedHops: 2, Headers: lines("10.0.0.1, 10.0.0.2")}, noAddress},
		"far fewer":                 {policytest.Request{TrustedHops: 32, Headers: lines("192.0.2.1")}, noAddress},
		"hops without a header":     {policytest.Request{TrustedHops: 1}, noAddress},
		"the hop is no address":     {policytest.Request{TrustedHops: 1, Headers: lines("192.0.2.1, unknown, 10.0.0.1")}, noAddress},
		"the hop is empty":          {policytest.Request{TrustedHops: 1, Headers: lines("192.0.2.1,, 10.0.0.1")}, noAddress},
		"a port at the hop":         {policytest.Request{TrustedHops: 1, Headers: lines("192.0.2.1:4711, 10.0.0.1")}, "192.0.2.1"},

		"Envoy's decision":                     {policytest.Request{SourceAddress: "192.0.2.1:0", Headers: lines("6.6.6.6, 10.0.0.1")}, "192.0.2.1"},
		"Envoy's decision over trusted hops":   {policytest.Request{SourceAddress: "[2001:db8::1]:443", TrustedHops: 1, Headers: lines("6.6.6.6, 10.0.0.1")}, "2001:db8::1"},
		"Envoy's decision without the header":  {policytest.Request{SourceAddress: "192.0.2.1:443"}, "192.0.2.1"},
		"Envoy's peer is a Unix socket":        {policytest.Request{SourceAddress: "@/run/envoy.sock", Headers: lines("6.6.6.6")}, noAddress},
		"Envoy's decision is no address":       {policytest.Request{SourceAddress: "unknown", Headers: lines("6.6.6.6")}, noAddress},
		"x-envoy-external-address of a client": {policytest.Request{Headers: []string{"x-envoy-external-address: 6.6.6.6", "x-forwarded-for: 192.0.2.1"}}, "192.0.2.1"},
		"other headers of a client": {policytest.Request{Headers: []string{
			"forwarded: for=6.6.6.6", "x-real-ip: 6.6.6.6", "true-client-ip: 6.6.6.6", "x_forwarded_for: 6.6.6.6", "x-forwarded-for2: 6.6.6.6",
		}}, noAddress},
	} {
		if got := begin(t, c.request).Request().ClientAddress().String(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// The header counts as Envoy sent it: a policy that hides it from the upstream, or writes into it, changes no bucket.
func TestChangesOfForwardedForAreIgnored(t *testing.T) {
	x := begin(t, policytest.Request{TrustedHops: 1, Headers: []string{"x-forwarded-for: 192.0.2.1", "x-forwarded-for: 10.0.0.1"}})
	r := x.Request()
	for name, change := range map[string]func(){
		"removed":  func() { r.RemoveHeader("x-forwarded-for") },
		"set":      func() { r.SetHeader("X-Forwarded-For", "6.6.6.6, 7.7.7.7") },
		"appended": func() { r.AppendHeader("x-forwarded-for", "6.6.6.6") },
	} {
		change()
		if got := r.ClientAddress(); got != netip.MustParseAddr("192.0.2.1") {
			t.Errorf("%s: %v", name, got)
		}
	}
	if n := testing.AllocsPerRun(100, func() { r.ClientAddress() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A policy that is run in an exchange of its own, after another one's timeout, sees the same address; the next request
// another.
func TestClientAddressOfSnapshots(t *testing.T) {
	request := policytest.Request{Headers: []string{"x-forwarded-for: 192.0.2.1, 10.0.0.1"}}
	for _, source := range []string{"", "192.0.2.1:80"} {
		x := begin(t, request)
		text := []byte(source)
		x.SetSource(text, 1)
		snapshot := x.Snapshot(x.Mark())
		clear(text)
		other, err := snapshot.Exchange(request.HeaderMap(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := other.Request().ClientAddress().String(); got != "192.0.2.1" {
			t.Errorf("source %q: %s", source, got)
		}
		x.Reset()
		if err := x.BeginRequest("r", request.HeaderMap(), true); err != nil {
			t.Fatal(err)
		}
		if got := x.Request().ClientAddress().String(); got != "10.0.0.1" {
			t.Errorf("after a reset: %s", got)
		}
	}
}

func TestClientAddressDoesNotAllocate(t *testing.T) {
	for _, r := range []policytest.Request{
		{Headers: []string{"x-forwarded-for: [2001:db8::1%eth0]:443"}},
		{TrustedHops: 2, Headers: []string{"x-forwarded-for: 1.1.1.1, 192.0.2.1:80", "x-forwarded-for: 10.0.0.1,10.0.0.2"}},
		{SourceAddress: "[2001:db8::1]:443"},
	} {
		x := begin(t, r)
		if !x.Request().ClientAddress().IsValid() {
			t.Error("no address")
		}
		if n := testing.AllocsPerRun(100, func() { x.Request().ClientAddress() }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

// What a client sends itself stands on the left, and changes nothing.
func FuzzTrustedHops(f *testing.F) {
	f.Add("6.6.6.6", uint8(0))
	f.Add(",,,[::1%,\r", uint8(3))
	f.Add(strings.Repeat(",", 4096), uint8(32))
	f.Fuzz(func(t *testing.T, sent string, hops uint8) {
		hops %= 33
		trusted := "192.0.2.1" + strings.Repeat(", 10.0.0.1", int(hops))
		x := new(policies.Exchange)
		headers := policytest.Request{Headers: []string{"x-forwarded-for: " + sent, "x-forwarded-for: " + sent + "," + trusted}}.HeaderMap()
		if x.BeginRequest("r", headers, true) != nil {
			return
		}
		x.SetSource(nil, uint32(hops))
		if got := x.Request().ClientAddress().String(); got != "192.0.2.1" {
			t.Fatalf("%s", got)
		}
	})
}
