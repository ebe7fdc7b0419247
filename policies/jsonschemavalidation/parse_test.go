package jsonschemavalidation

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

var plenty = bounds{depth: maxDepth, values: maxValues}

func TestParse(t *testing.T) {
	for _, text := range []string{
		`{}`, `[]`, `""`, `0`, `-0`, `-0.0e-0`, `1E+400`, `1e-400`, `true`, `false`, `null`, " \t\r\n[ 1 , 2 ] \n", `{"a":{"b":[{}]},"c":null}`,
		`"\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00\uFFFD"`, `"é😀` + "\u007f\u2028" + `"`, `{"a":1,"A":2,"":3,"\u0000":4}`, strings.Repeat("9", maxNumber),
		strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth), `{"__proto__":{}}`, `[0,{},"",[]]`,
	} {
		got, _, f := parse([]byte(text), plenty)
		if f != nil {
			t.Errorf("%.60q: %v", text, f)
			continue
		}
		want, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%.60q: %#v, want %#v, %v", text, got, want, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		``:                                  "the end where a value should be at byte 0",
		`   `:                               "the end where a value should be at byte 3",
		"\x00":                              "no value at byte 0",
		`{} {}`:                             "more than one value at byte 3",
		`{}x`:                               "more than one value at byte 2",
		"{}\x00":                            "more than one value at byte 2",
		"{}\xff":                            "it is not UTF-8 at byte 2",
		"\xef\xbb\xbf{}":                    "no value at byte 0", // a byte order mark
		"\"\xc0\xaf\"":                      "it is not UTF-8 at byte 1",
		"\"\xed\xa0\x80\"":                  "it is not UTF-8 at byte 1", // half of a surrogate pair
		"{\x00}":                            "no name of a member at byte 1",
		`{`:                                 "no name of a member at byte 1",
		`{"a"`:                              "no ':' after a name at byte 4",
		`{"a":`:                             "the end where a value should be",
		`{"a":1`:                            "neither ',' nor '}' in an object",
		`{"a":1,}`:                          "no name of a member at byte 7",
		`{"a" 1}`:                           "no ':' after a name",
		`{a:1}`:                             "no name of a member at byte 1",
		`{'a':1}`:                           "no name of a member",
		`{"a":1 "b":2}`:                     "neither ',' nor '}'",
		`{"a":1,"a":2}`:                     "a member that is there twice at byte 7",
		`{"a":1,"\u0061":2}`:                "a member that is there twice at byte 7",
		`{"a":1,"b":{"x":1,"\u0078":1}}`:    "a member that is there twice",
		`{"/":1,"\/":2}`:                    "a member that is there twice",
		`[1,]`:                              "no value at byte 3",
		`[,1]`:                              "no value at byte 1",
		`[1 2]`:                             "neither ',' nor ']'",
		`[1`:                                "neither ',' nor ']'",
		`[`:                                 "the end where a value should be",
		`}`:                                 "no value at byte 0",
		`// a comment`:                      "no value",
		`{}//`:                              "more than one value",
		`NaN`:                               "no value",
		`Infinity`:                          "no value",
		`-Infinity`:                         "no number",
		`True`:                              "no value",
		`nul`:                               "no value",
		`nulll`:                             "more than one value at byte 4",
		`truefalse`:                         "more than one value",
		`undefined`:                         "no value",
		`01`:                                "no number at byte 0",
		`-01`:                               "no number",
		`-`:                                 "no number",
		`+1`:                                "no value",
		`1.`:                                "no number",
		`.5`:                                "no value",
		`1.e5`:                              "no number",
		`1e`:                                "no number",
		`1e+`:                               "no number",
		`0x10`:                              "more than one value at byte 1",
		`1_000`:                             "more than one value",
		`1e401`:                             "a number with too many digits",
		`1e-401`:                            "a number with too many digits",
		`1e99999999999999999999999`:         "a number with too many digits",
		`[1e1000000000]`:                    "a number with too many digits at byte 1",
		`"`:                                 "the end within a string",
		`"a`:                                "the end within a string",
		`"\`:                                "an unknown escape",
		`"\x41"`:                            "an unknown escape at byte 1",
		`"\'"`:                              "an unknown escape",
		`"\U00000041"`:                      "an unknown escape",
		`"\u12"`:                            "an escape that is no character",
		`"\u12G4"`:                          "an escape that is no character",
		`"\u123`:                            "an escape that is no character",
		`"\ud800"`:                          "an escape that is no character at byte 1",
		`"\udc00"`:                          "an escape that is no character",
		`"\ud800\u0041"`:                    "an escape that is no character",
		`"\ud800\ud800"`:                    "an escape that is no character",
		`"\ud83dx"`:                         "an escape that is no character",
		"\"\n\"":                            "a control character in a string at byte 1",
		"\"\t\"":                            "a control character in a string",
		"\"\\n\x00\"":                       "a control character in a string",
		strings.Repeat("9", maxNumber+1):    "a number with too many digits",
		strings.Repeat("[", maxDepth+1):     "nested too deep at byte 512",
		strings.Repeat(`{"a":`, maxDepth+1): "nested too deep",
		"[" + strings.Repeat("0,", maxValues-1) + "0]":                  "too many values",
		strings.Repeat("[", 1_000_000) + strings.Repeat("]", 1_000_000): "nested too deep",
	} {
		_, _, f := parse([]byte(text), plenty)
		if f == nil || !strings.Contains(f.Error(), want) {
			t.Errorf("%.60q: %v, want %s", text, f, want)
		}
	}
}

// The bounds are of what is open at a time, and of all that there is.
func TestBounds(t *testing.T) {
	for text, ok := range map[string]bool{
		`[[],[],[]]`: true, `[[[]]]`: false, `{"a":{},"b":[]}`: true, `[1,2,3,4]`: true, `[1,2,3,4,5]`: false, `{"a":1,"b":2,"c":[1,2]}`: false,
	} {
		if _, _, f := parse([]byte(text), bounds{depth: 2, values: 5}); (f == nil) != ok || f != nil && f.reason != tooComplex {
			t.Errorf("%s: %v", text, f)
		}
	}
}

// FuzzParse: what is taken is what the standard library reads, and what it reads is taken but for what is ambiguous.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{"a":[1,2.5e3,"\u00e9\ud83d\ude00",null,true]}`, `{"a":1,"a":2}`, `"\ud800"`, `1e999`, ` [ ] `, `[[[`, "\"\xff\"", `{"\u0061":{"b":[]}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		got, _, flaw := parse(body, plenty)
		if !bytes.Equal(before, body) {
			t.Fatal("the body was changed")
		}
		want, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
		if flaw == nil {
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%q is taken as %#v; the library reads %#v, %v", body, got, want, err)
			}
			return
		}
		if flaw.at < 0 || flaw.at > len(body) {
			t.Errorf("%q: byte %d", body, flaw.at)
		}
		if !json.Valid(body) || flaw.reason == tooComplex || !utf8.Valid(body) {
			return
		}
		switch flaw.what {
		case "a member that is there twice", "an escape that is no character":
		default:
			t.Errorf("%q is JSON: %v", body, flaw)
		}
	})
}
