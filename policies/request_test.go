package policies_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

// begin makes an exchange with a request.
func begin(t testing.TB, r policytest.Request) *policies.Exchange {
	t.Helper()
	x := new(policies.Exchange)
	if err := x.BeginRequest("orders", r.HeaderMap(), !r.Body); err != nil {
		t.Fatal(err)
	}
	x.SetSource([]byte(r.SourceAddress), uint32(r.TrustedHops))
	return x
}

// view tells all headers, in order.
func view(x *policies.Exchange) []string {
	var lines []string
	for name, value := range x.Request().Headers() {
		lines = append(lines, fmt.Sprintf("%s: %s", name, value))
	}
	return lines
}

// fields tells all headers but the pseudo-headers.
func fields(x *policies.Exchange) []string {
	return slices.DeleteFunc(view(x), func(line string) bool { return line[0] == ':' })
}

func TestRequestAttributes(t *testing.T) {
	x := begin(t, policytest.Request{
		Method: "PUT", Path: "/a?b=c", Authority: "api.example:8443", Scheme: "http", Headers: []string{"x-request-id: 42"}, Body: true,
	})
	r := x.Request()
	got := []string{r.Route(), string(r.Method()), string(r.Path()), string(r.Authority()), string(r.Scheme()), string(r.ID()), fmt.Sprint(r.EndOfStream())}
	if want := []string{"orders", "PUT", "/a?b=c", "api.example:8443", "http", "42", "false"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestHeaderOverlay(t *testing.T) {
	start := []string{"x-a: 1", "x-b: 2", "X-A: 3"}
	for name, c := range map[string]struct {
		change func(*policies.Request)
		want   []string
		value  string // of x-a
		n      int
	}{
		"nothing":        {func(*policies.Request) {}, start, "1", 2},
		"set":            {func(r *policies.Request) { r.SetHeader("X-a", "4") }, []string{"x-a: 4", "x-b: 2"}, "4", 1},
		"set new":        {func(r *policies.Request) { r.SetHeader("x-c", "4") }, append(slices.Clone(start), "x-c: 4"), "1", 2},
		"append":         {func(r *policies.Request) { r.AppendHeader("x-A", "4") }, append(slices.Clone(start), "x-a: 4"), "1", 3},
		"remove":         {func(r *policies.Request) { r.RemoveHeader("X-a") }, []string{"x-b: 2"}, "", 0},
		"remove, set":    {func(r *policies.Request) { r.RemoveHeader("x-a"); r.SetHeader("x-a", "4") }, []string{"x-b: 2", "x-a: 4"}, "4", 1},
		"append, remove": {func(r *policies.Request) { r.AppendHeader("x-a", "4"); r.RemoveHeader("x-a") }, []string{"x-b: 2"}, "", 0},
		"append, set":    {func(r *policies.Request) { r.AppendHeader("x-a", "4"); r.SetHeader("x-a", "5") }, []string{"x-a: 5", "x-b: 2"}, "5", 1},
		"empty value":    {func(r *policies.Request) { r.SetHeader("x-a", "") }, []string{"x-a: ", "x-b: 2"}, "", 1},
		"not there":      {func(r *policies.Request) { r.RemoveHeader("x-c") }, start, "1", 2},
	} {
		t.Run(name, func(t *testing.T) {
			x := begin(t, policytest.Request{Headers: start})
			c.change(x.Request())
			if err := x.Err(); err != nil {
				t.Fatal(err)
			}
			if got := fields(x); !slices.Equal(got, c.want) {
				t.Errorf("headers %q, want %q", got, c.want)
			}
			if value, n := x.Request().Header("X-A"); string(value) != c.value || n != c.n {
				t.Errorf("x-a is %q, %d times; want %q, %d times", value, n, c.value, c.n)
			}
		})
	}
}

func TestRangeOverHeadersStops(t *testing.T) {
	x := begin(t, policytest.Request{Headers: []string{"x-a: 1"}})
	n := 0
	for range x.Request().Headers() {
		n++
		break
	}
	if n != 1 {
		t.Errorf("%d rounds", n)
	}
}

func TestSpellings(t *testing.T) {
	x := begin(t, policytest.Request{Headers: []string{
		"x-user-id: 1", "X-User-ID: 2", "x_user_id: 3", "x-user_ID: 4", "x-user-id2: 5", "x-user: 6", "xuser-id: 7", "x-userºid: 8",
	}})
	r := x.Request()
	if n := r.Spellings("X-User-Id"); n != 4 {
		t.Errorf("%d spellings", n)
	}
	r.RemoveSpellings("X-User-Id")
	if got, want := fields(x), []string{"x-user-id2: 5", "x-user: 6", "xuser-id: 7", "x-userºid: 8"}; !slices.Equal(got, want) {
		t.Errorf("left are %q, want %q", got, want)
	}
	var removed []string
	for _, c := range x.Changes() {
		removed = append(removed, c.Name)
	}
	// Envoy compares names exactly, so each spelling must be named.
	if want := []string{"x-user-id", "x_user_id", "x-user_id"}; !slices.Equal(removed, want) || x.Err() != nil {
		t.Errorf("removed %q, want %q; %v", removed, want, x.Err())
	}
}

func TestIllegalChanges(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*policies.Request)
		want   string
	}{
		"empty name":          {func(r *policies.Request) { r.SetHeader("", "") }, "the name is empty"},
		"name":                {func(r *policies.Request) { r.SetHeader("x a", "") }, "not allowed in a header name"},
		"pseudo-header":       {func(r *policies.Request) { r.SetHeader(":path", "/admin") }, "not allowed in a header name"},
		"append pseudo":       {func(r *policies.Request) { r.AppendHeader(":method", "PUT") }, "not allowed in a header name"},
		"unicode":             {func(r *policies.Request) { r.SetHeader("x-ä", "") }, "not allowed in a header name"},
		"host":                {func(r *policies.Request) { r.SetHeader("Host", "a") }, "Envoy forbids it"},
		"envoy":               {func(r *policies.Request) { r.SetHeader("X-Envoy-Retry-On", "5xx") }, "x-envoy-"},
		"line break":          {func(r *policies.Request) { r.SetHeader("x", "a\nx-admin: 1") }, "NUL, CR or LF"},
		"carriage return":     {func(r *policies.Request) { r.AppendHeader("x", "a\r") }, "NUL, CR or LF"},
		"NUL":                 {func(r *policies.Request) { r.SetHeader("x", "\x00") }, "NUL, CR or LF"},
		"tabulator, delete":   {func(r *policies.Request) { r.SetHeader("x", "\t\x7f") }, "control character"},
		"escape":              {func(r *policies.Request) { r.SetHeader("x", "\x1b[2J") }, "control character"},
		"remove Envoy's":      {func(r *policies.Request) { r.RemoveHeader("X-Envoy-Peer") }, "Envoy forbids"},
		"remove host":         {func(r *policies.Request) { r.RemoveHeader("HOST") }, "Envoy forbids"},
		"remove pseudo":       {func(r *policies.Request) { r.RemoveHeader(":authority") }, "not allowed in a header name"},
		"remove nothing":      {func(r *policies.Request) { r.RemoveHeader("") }, "the name is empty"},
		"path, relative":      {func(r *policies.Request) { r.SetPath("admin") }, "begin with '/'"},
		"path, absolute":      {func(r *policies.Request) { r.SetPath("http://other/") }, "begin with '/'"},
		"path, empty":         {func(r *policies.Request) { r.SetPath("") }, "begin with '/'"},
		"path, network":       {func(r *policies.Request) { r.SetPath("//other/") }, "begin with '/'"},
		"path, backslash":     {func(r *policies.Request) { r.SetPath(`/\other/`) }, "begin with '/'"},
		"path, asterisk":      {func(r *policies.Request) { r.SetPath("*") }, "begin with '/'"},
		"method, tunnel":      {func(r *policies.Request) { r.SetMethod("CONNECT") }, "what the connection is used for"},
		"method, preface":     {func(r *policies.Request) { r.SetMethod("PRI") }, "what the connection is used for"},
		"path, space":         {func(r *policies.Request) { r.SetPath("/a b") }, "percent-encoded"},
		"path, fragment":      {func(r *policies.Request) { r.SetPath("/a#b") }, "percent-encoded"},
		"path, line break":    {func(r *policies.Request) { r.SetPath("/a\r\nx: y") }, "percent-encoded"},
		"path, unicode":       {func(r *policies.Request) { r.SetPath("/ä") }, "percent-encoded"},
		"method, empty":       {func(r *policies.Request) { r.SetMethod("") }, "not a token"},
		"method, no token":    {func(r *policies.Request) { r.SetMethod("GET /") }, "not a token"},
		"identity, nobody":    {func(r *policies.Request) { r.SetIdentity(policies.Identity{Method: "x"}) }, "the subject is empty"},
		"identity, no UTF-8":  {func(r *policies.Request) { r.SetIdentity(policies.Identity{Subject: "\xff"}) }, "UTF-8"},
		"identity, bad scope": {func(r *policies.Request) { r.SetIdentity(policies.Identity{Subject: "a", Scopes: []string{"\xff"}}) }, "UTF-8"},
		"metadata, no UTF-8":  {func(r *policies.Request) { r.SetMetadata("a", "\xff") }, "UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			x := begin(t, policytest.Request{Headers: []string{"x: 1"}})
			before := view(x)
			c.change(x.Request())
			first := x.Err()
			if first == nil || !strings.Contains(first.Error(), c.want) {
				t.Errorf("error %v, want %q", first, c.want)
			}
			x.Request().SetHeader("", "")
			if x.Err() != first {
				t.Error("a later error took the place of the first")
			}
			if _, ok := x.Identity(); ok || len(x.Changes()) > 0 || len(x.Metadata()) > 0 || !slices.Equal(view(x), before) {
				t.Errorf("changed: %v, %q", x.Changes(), view(x))
			}
		})
	}
}

func TestLegalTargets(t *testing.T) {
	for _, path := range []string{"/", "/a?b=%20", "/%2e%2e/;x=1", "/" + strings.Repeat("a", 8000)} {
		x := begin(t, policytest.Request{})
		x.Request().SetPath(path)
		if x.Err() != nil || string(x.Request().Path()) != path {
			t.Errorf("path %.20q: %v", path, x.Err())
		}
	}
	x := begin(t, policytest.Request{})
	x.Request().SetMethod("M-SEARCH")
	if x.Err() != nil || string(x.Request().Method()) != "M-SEARCH" {
		t.Error(x.Err())
	}
}

func TestCheckHeader(t *testing.T) {
	if err := policies.CheckHeader("X-User-ID", "alice \t\xff"); err != nil {
		t.Error(err)
	}
	if policies.CheckHeader("x-a", "\n") == nil || policies.CheckHeader("host", "") == nil || policies.CheckHeader("x-envoy-a", "") == nil {
		t.Error("accepted what Envoy refuses")
	}
}

func TestQuery(t *testing.T) {
	for _, c := range []struct {
		path, value string
		n           int
	}{
		{"/", "", 0},
		{"/?", "", 0},
		{"/?key=1", "1", 1},
		{"/?a=0&key=1&b", "1", 1},
		{"/?key", "", 1},
		{"/?key=1&key=2", "1", 2},
		{"/?%6bey=1", "1", 1},
		{"/?k%65%79=%31+%2B", "1 +", 1},
		{"/?KEY=1&keys=2&=3", "", 0},
		{"/?key=%zz&key=2", "2", 1},
		{"/?key=%4", "", 0},
		{"/?key=a=b", "a=b", 1},
		{"/?x;key=1", "", 0},
		{"/?a?key=1", "", 0},
		{"/key=1", "", 0},
	} {
		value, n := begin(t, policytest.Request{Path: c.path}).Request().Query("key")
		if string(value) != c.value || n != c.n {
			t.Errorf("%s: %q, %d times; want %q, %d times", c.path, value, n, c.value, c.n)
		}
	}
}

func TestSetAndRemoveQuery(t *testing.T) {
	for _, c := range []struct{ path, set, removed string }{
		{"/a", "/a?key=v%20%26", "/a"},
		{"/a?key=1", "/a?key=v%20%26", "/a"},
		{"/a?b=%20+&key=1&c", "/a?b=%20+&c&key=v%20%26", "/a?b=%20+&c"},
		{"/a?key=1&b&k%65y=2", "/a?b&key=v%20%26", "/a?b"},
		{"/a?%zz&key", "/a?%zz&key=v%20%26", "/a?%zz"},
		{"/a?b", "/a?b&key=v%20%26", "/a?b"},
	} {
		x := begin(t, policytest.Request{Path: c.path})
		x.Request().SetQuery("key", "v &")
		if got := string(x.Request().Path()); got != c.set || x.Err() != nil {
			t.Errorf("%s set: %s, want %s; %v", c.path, got, c.set, x.Err())
		}
		x = begin(t, policytest.Request{Path: c.path})
		x.Request().RemoveQuery("key")
		if got := string(x.Request().Path()); got != c.removed || x.Err() != nil {
			t.Errorf("%s removed: %s, want %s; %v", c.path, got, c.removed, x.Err())
		}
		if changed := len(x.Changes()) > 0; changed != (c.path != c.removed) {
			t.Errorf("%s removed: %d changes", c.path, len(x.Changes()))
		}
	}
}

func TestCookie(t *testing.T) {
	for name, c := range map[string]struct {
		headers []string
		value   string
		n       int
	}{
		"none":        {nil, "", 0},
		"one":         {[]string{"cookie: key=1"}, "1", 1},
		"several":     {[]string{"cookie: a=0; key=1;b=2;key=3"}, "1", 2},
		"two fields":  {[]string{"cookie: key=1", "Cookie: key=2"}, "1", 2},
		"quoted":      {[]string{`cookie: key="a b"`}, "a b", 1},
		"one quote":   {[]string{`cookie: key="`}, `"`, 1},
		"no value":    {[]string{"cookie: key="}, "", 1},
		"no equals":   {[]string{"cookie: key"}, "", 0},
		"other case":  {[]string{"cookie: KEY=1"}, "", 0},
		"spaces":      {[]string{"cookie:  ;; \tkey=1 \t; "}, "1", 1},
		"equals":      {[]string{"cookie: key=a=b"}, "a=b", 1},
		"not decoded": {[]string{"cookie: key=%41+"}, "%41+", 1},
	} {
		value, n := begin(t, policytest.Request{Headers: c.headers}).Request().Cookie("key")
		if string(value) != c.value || n != c.n {
			t.Errorf("%s: %q, %d times; want %q, %d times", name, value, n, c.value, c.n)
		}
	}
}

func TestMalformedHeaderMaps(t *testing.T) {
	for name, m := range map[string][]byte{
		"truncated": policytest.Request{}.HeaderMap()[:20],
		"garbage":   []byte("\xff\xff"),
		"no name":   headermap.AppendField(nil, "", "x"),
	} {
		x := new(policies.Exchange)
		if x.BeginRequest("r", m, true) == nil {
			t.Errorf("%s: accepted as a request", name)
		}
		if x.BeginResponse(m, true) == nil {
			t.Errorf("%s: accepted as a response", name)
		}
	}
}
