package jwtvalidation

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestBuildRefuses(t *testing.T) {
	for params, want := range map[string]string{
		`{}`:                                           "issuer: missing",
		`{"issuer":[]}`:                                "issuer: missing",
		`{"issuer":1}`:                                 "issuer: expected a name or a list of names, got 1",
		`{"issuer":"nobody"}`:                          `issuer: unknown token issuer "nobody"; there are corporate, down, partner`,
		`{"issuer":["corporate","nobody"]}`:            `issuer[1]: unknown token issuer "nobody"`,
		`{"issuer":["corporate","corporate"]}`:         `issuer[1]: "corporate" has the same iss`,
		`{"issuer":"corporate","algorithms":[]}`:       "algorithms: empty",
		`{"issuer":"corporate","algorithms":["none"]}`: `algorithms[0]: unknown value "none", expected one of RS256`,
		`{"issuer":"corporate","algorithms":["RS256","HS256"]}`:              `algorithms[1]: unknown value "HS256"`,
		`{"issuer":"corporate","algorithms":["rs256"]}`:                      `algorithms[0]: `,
		`{"issuer":"corporate","audience":[""]}`:                             "audience[0]: empty",
		`{"issuer":"corporate","header_name":""}`:                            "header_name: ",
		`{"issuer":"corporate","header_name":"Cookie"}`:                      "header_name: ",
		`{"issuer":"corporate","scheme":"Bearer token"}`:                     "scheme: ",
		`{"issuer":"corporate","required_scopes":["a b"]}`:                   "required_scopes[0]: ",
		`{"issuer":"corporate","required_claims":{"a":{}}}`:                  "required_claims.a: ",
		`{"issuer":"corporate","required_claims":{"a":null}}`:                "required_claims.a: ",
		`{"issuer":"corporate","required_claims":{"a":[]}}`:                  "required_claims.a: an empty list",
		`{"issuer":"corporate","required_claims":{"a":1.5}}`:                 "required_claims.a: unexpected value 1.5",
		`{"issuer":"corporate","required_claims":{"a":9007199254740993}}`:    "required_claims.a: ",
		`{"issuer":"corporate","required_claims":{"a":["x",["y"]]}}`:         "required_claims.a: ",
		`{"issuer":"corporate","claims_to_headers":{"sub":"host"}}`:          "claims_to_headers.sub: ",
		`{"issuer":"corporate","claims_to_headers":{"sub":""}}`:              "claims_to_headers.sub: ",
		`{"issuer":"corporate","claims_to_headers":{"sub":"authorization"}}`: `claims_to_headers.sub: header "authorization" carries the credential`,
		`{"issuer":"corporate","claims_to_headers":{"a":"x-id","b":"X_ID"}}`: `claims_to_headers.b: header "X_ID" carries claim "a" already`,
		`{"issuer":"corporate","leeway":"-1s"}`:                              "leeway: must be between 0s and 10m0s, got -1s",
		`{"issuer":"corporate","leeway":"11m"}`:                              "leeway: must be between 0s and 10m0s, got 11m0s",
		`{"issuer":"corporate","leeway":"soon"}`:                             `"soon" is not a duration`,
		`{"issuer":"corporate","claims_to_header":{}}`:                       "claims_to_header: unknown parameter",
	} {
		if _, err := Definition().Build(newWorld(t), json.RawMessage(params)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", params, err, want)
		}
	}
}
