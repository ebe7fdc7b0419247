package auditlog

import (
	"path/filepath"
	"reflect"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

// TestClaimsOfTheCredential: all claims of the credential can be written, nested ones too, and those that name credentials are not.
func TestClaimsOfTheCredential(t *testing.T) {
	set, err := policies.ParseClaimsSet([]byte(`{"plan":"gold","realm":{"roles":["a","b"],"password":"s3"}}`))
	if err != nil {
		t.Fatal(err)
	}
	id := policies.Identity{Subject: "alice"}.WithClaimsSet(set)
	file := filepath.Join(t.TempDir(), "audit.log")
	p := instance(t, policytest.NewEnv(t), `{"file":"`+file+`","claims":["plan","/realm/roles","/realm/password","/realm/none"]}`)
	if got := policytest.Run(t, p, policytest.Request{Identity: &id}); !got.Continued() {
		t.Fatal(got)
	}
	p.written(t)
	got, _ := fields(t, read(t, file)[0])["identity"].(map[string]any)
	want := map[string]any{"plan": "gold", "/realm/roles": `["a","b"]`, "/realm/password": redacted}
	if !reflect.DeepEqual(got["claims"], want) {
		t.Errorf("claims %v, want %v", got["claims"], want)
	}
}
