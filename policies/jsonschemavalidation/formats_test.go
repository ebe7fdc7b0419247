package jsonschemavalidation

import (
	"fmt"
	"strings"
	"testing"
)

func TestFormats(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, c := range []struct{ name, valid, invalid string }{
		{
			"ipv4", "0.0.0.0 255.255.255.255 127.0.0.1",
			"+1.-0.2.3 1.2.3 1.2.3.4.5 256.0.0.1 01.2.3.4 1.2.3.4. .1.2.3 1..2.3 0x7f.0.0.1 1e1.0.0.1 ١.2.3.4 1.2.3.4/8 2130706433 1.2.3.1234567890123456789012",
		},
		{
			"ipv6", ":: ::1 1::8 1:2:3:4:5:6:7:8 ::ffff:192.168.0.1 FE80::a",
			"1.2.3.4 [::1] ::1%eth0 1:2:3:4:5:6:7 1:2:3:4:5:6:7:8:9 ::12345 :1 1: 1::2::3 ::g ::ffff:192.168.0.256 ::ffff:1.2.3 ::1/64 ::1%",
		},
		{
			"hostname", "a localhost example.com 1a.2b xn--nxasmm1c.example " + long + "." + long + "." + long + "." + long[:61],
			"a..b .a a. - a- -a a_b a@b é.example xn-- xn--a xn--X ab--cd " + long + "a " + long + "." + long + "." + long + "." + long[:62] + " a\\tb 💣.example a:1",
		},
		{
			"email", `a@b joe.bloggs@example.com "joe bloggs"@example.com "a@b"@c te~st@example.com joe@[127.0.0.1] joe@[IPv6:::1] ` + long + "a@b",
			`@x.example x@ x @ a@@b a@b@c .a@b a.@b a..b@c a@b..c a@b. a@-b "@b ""@" "a"b"@c a@[1.2.3] a@[::1] a@[IPv6:1.2.3.4] a@[1.2.3.4 é@b a@é <a@b> a,b@c ` + long + "aa@b",
		},
		{"date", "2024-02-29 1963-06-19 2000-02-29 0000-01-01", "2023-02-29 1900-02-29 2024-2-9 2024-13-01 2024-00-01 2024-01-32 2024-04-31 2024-01-00 20240101 +024-01-01 2024-01-01T 1963-06-1৪"},
		{
			"time", "08:30:06Z 08:30:06z 08:30:06.283185Z 23:59:60Z 01:29:60+01:30 15:59:60-08:00 00:00:00+23:59",
			"08:30:06 24:00:00Z 00:60:00Z 00:00:61Z 22:59:60Z 23:59:60+01:00 08:30:06.Z 08:30:06+0100 08:30:06+24:00 08:30:06+01:60 8:3:6Z 08:30:06ZZ +8:30:06Z 08:30:0६Z 08:30Z",
		},
		{
			"date-time", "1963-06-19T08:30:06.283185Z 1990-12-31T15:59:60-08:00 1937-01-01t12:00:27.87+00:20",
			"1990-02-31T15:59:59Z 1963-06-19 1963-06-19X08:30:06Z 1963-06-19T08:30:06 1998-12-31T23:59:61Z T 1963-06-19T",
		},
		{
			"duration", "P4DT12H30M5S P4Y PT0S P0D P1M PT1M PT36H P1Y2M3D P2W P1DT12H",
			"P PT P1 4DT12H P4DT12H30M5 P1YT P2D1Y P1Y2D PT1H5S P1Y2W PT1D P1H P1.5D P-1D PT1HT1M P২Y P1W2D PTT1S",
		},
		{
			"uuid", "2eb8aa08-aa98-11ea-b4aa-73b441d16380 2EB8AA08-AA98-11EA-B4AA-73B441D16380",
			"2eb8aa08-aa98-11ea-b4aa-73b441d1638 2eb8aa08aa9811eab4aa73b441d16380 2eb8aa08-aa98-11ea-b4aa-73b441d1638g {2eb8aa08-aa98-11ea-b4aa-73b441d16380} 2eb8-aa08-aa98-11ea-b4aa73b44-1d16380",
		},
		{
			"uri", "http://foo.bar/?baz=qux#quuz mailto:a@b tel:+1-816 urn:oasis:names ldap://[2001:db8::7]/c?o?one a: http://a%20b/ http://u:p@h:80/ http://[v1.a:b]/ file:///etc http://h:/",
			`//foo /abc \\h a http://a<script>.b http://a/<script> http://a/{} a.b://%zz http://a\b http://[::1 http://[x]/ http://a:b/ http://[::1]x :a 1a:b é:a http://é/ http://a/% http://a#b#c http://u@p@h/ http://a/"`,
		},
		{"uri-reference", "/abc //h/p?q#f abc ? # a/b:c ../a http://a/ ./a:b", `\\h a<b> %zz :a 1:b é a|b #a#b`},
		{"iri", "http://ƒøø.ßår/?∂éœ=πîx#πîüx http://é/ a:", "/é é a<b>:c http://2001:0db8:85a3::7334 \\ue000:a http://\\ufffe/"},
		{"iri-reference", "/âππ é ?\\ue000", "\\\\h #\\ue000 a<é>"},
		{"uri-template", "http://a/{b}/{?c,d*}/{+e:3} a {a.b} {%41} a'b é {#x} {,y}", `{ } {a a} {} {a:0} {a:12345} {a*:1} {{a}} {a-b} {?} <a> {a,} a|b %4`},
		{"json-pointer", "/foo/bar~0/baz~1/%a /  / //", "a #/a /~ /~2 /a~"},
		{"relative-json-pointer", "1 0/foo/bar 2/0/baz 0#", "/a -1/a 01 0## +1/a 1~ ১/a"},
		{"regex", `^a$ ([abc])+\\s+$ \\cA \\u0041 \\d{1,3} [\\b\\s]`, `^(abc] \\1 (?=a) [] \\c1 \\u00 a{1001} \\ (?i)a (?P<n>a) (?s:.)`},
	} {
		s, err := newCheckers(fmt.Appendf(nil, `{"format": %q}`, c.name), true)
		if err != nil {
			t.Fatal(err)
		}
		fits := func(json string) bool {
			value, _, f := parse([]byte(json), plenty)
			if f != nil {
				t.Fatalf("%s: %v", json, f)
			}
			invalid, failed := s.check(t.Context(), value, usual)
			if failed != nil {
				t.Fatal(failed)
			}
			return invalid == nil
		}
		quote := strings.NewReplacer(`"`, `\"`)
		for _, text := range strings.Split(c.valid, " ") {
			if strings.HasPrefix(text, `"joe`) || strings.HasPrefix(text, `bloggs"`) {
				text = `"joe bloggs"@example.com`
			}
			if json := `"` + quote.Replace(text) + `"`; !fits(json) {
				t.Errorf("%s: %s is refused", c.name, json)
			}
		}
		invalid := strings.Split(c.invalid, " ")
		for _, text := range append(invalid, strings.Split(c.valid, " ")[0]+`\n`, " "+invalid[0]) {
			json := `"` + quote.Replace(text) + `"`
			switch c.name {
			case "json-pointer", "relative-json-pointer", "regex": // Line breaks and spaces may stand in them.
				if strings.ContainsAny(text, "\n ") || strings.HasSuffix(text, `\n`) {
					continue
				}
			}
			if c.name != "uri-template" || text != "" {
				if fits(json) {
					t.Errorf("%s: %s is taken", c.name, json)
				}
			}
		}
		for _, other := range []string{"1", "null", "{}", "[]", "true"} {
			if !fits(other) {
				t.Errorf("%s: %s is refused", c.name, other)
			}
		}
	}
}

// A format that JSON Schema has and the policy has not is a mistake in the configuration, wherever it stands.
func TestUnsupportedFormatsAreErrors(t *testing.T) {
	for _, schema := range []string{
		`{"format": "idn-email"}`, `{"properties": {"a": {"items": {"format": "idn-hostname"}}}}`,
		`{"$schema": "http://json-schema.org/draft-07/schema#", "format": "idn-hostname"}`,
	} {
		if _, err := newCheckers([]byte(schema), true); err == nil || !strings.Contains(err.Error(), "is not supported, expected one of date, date-time") {
			t.Errorf("%s: %v", schema, err)
		}
		if _, err := newCheckers([]byte(schema), false); err != nil {
			t.Errorf("%s as a remark: %v", schema, err)
		}
	}
}

// With assert_formats: false no draft enforces formats.
func TestFormatsAreRemarks(t *testing.T) {
	for _, draft := range []string{"http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"} {
		schema := fmt.Sprintf(`"schema": {"$schema": %q, "format": "ipv4"}}`, draft)
		if got := post(t, instance(t, `{"assert_formats": false, `+schema), `"a"`); !got.Continued() {
			t.Errorf("%s: %v", draft, got)
		}
		if got := post(t, instance(t, `{`+schema), `"a"`); got.String() != "400 body_invalid" {
			t.Errorf("%s: %v", draft, got)
		}
	}
}

func FuzzFormats(f *testing.F) {
	for _, seed := range []string{"1.2.3.4", "::1", "a@b", "http://[::1]/%41?#", "2024-02-29T23:59:60Z", "P1Y", "xn--nxasmm1c", "{+a:3}", `\u0041[^\S]`, ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, format := range formats {
			if err := format.Validate(text); err == nil && strings.ContainsAny(text, "\r<> ") {
				switch format.Name {
				case "email", "json-pointer", "relative-json-pointer": // Quoted, and any.
				default:
					t.Errorf("%s takes %q", format.Name, text)
				}
			}
		}
	})
}
