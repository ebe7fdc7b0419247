package apikeyauth

import (
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

// world is an environment with one key store, "partners".
type world struct {
	*policytest.Env
	store *policytest.KeyStore
}

func newWorld(t testing.TB) world {
	store := policytest.NewKeyStore(map[string]policies.Key{
		"key-alice": {ID: "alice", Scopes: []string{"orders.read", "orders.write"}},
		"key-bob":   {ID: "bob"},
		"key-late":  {ID: "late", Expires: policytest.Start},
		"key-soon":  {ID: "soon", Expires: policytest.Start.Add(time.Second)},
		"ключ =&;":  {ID: "odd"},
		largest:     {ID: "largest"},
		tooLarge:    {ID: "too-large"},
	})
	return world{policytest.NewEnv(t, policytest.WithKeyStore("partners", store)), store}
}

func (w world) policy(t testing.TB, params string) *Policy {
	t.Helper()
	return policytest.Build(t, Definition(), w, params).(*Policy)
}

var (
	largest  = strings.Repeat("k", maxKeySize)
	tooLarge = largest + "k"
)

// field is a header line.
type field [2]string

func request(path string, fields ...field) policytest.Request {
	r := policytest.Request{Path: path}
	for _, f := range fields {
		r.Headers = append(r.Headers, f[0]+": "+f[1])
	}
	return r
}

// outcome is what came of a request.
type outcome struct{ *policytest.Result }

func (p *Policy) run(t testing.TB, path string, fields ...field) outcome {
	t.Helper()
	return outcome{policytest.Run(t, p, request(path, fields...))}
}

func (o outcome) header(name string) string {
	value, _ := o.Header(name)
	return value
}

func (o outcome) subject() string {
	if o.Identity == nil {
		return ""
	}
	return o.Identity.Subject
}

// String is "continue" with the subject, or the refusal.
func (o outcome) String() string {
	if o.Continued() {
		return strings.TrimSpace("continue " + o.subject())
	}
	return o.Result.String()
}
