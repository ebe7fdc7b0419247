package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

const pathRoutes = `  workers:
    - {name: worker-a, socket_path: "${RUN_DIR}/a.sock"}
  route_policies:
    - route_name: open
      request_flow: {policy_chain: [{policy: witnessA, params: {name: path}}]}
    - route_name: admin
      request_flow: {policy_chain: [{policy: answerA, params: {if: ":path", status: 403}}]}
`

// TestPaths sends paths that one reader takes for another than the next one does. Policies and upstream must see the same one, and what an upstream
// could take for /admin must not come through the open route.
func TestPaths(t *testing.T) {
	t.Parallel()
	spec := harness.Spec{
		Kernel: pathRoutes, Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A")}, EnvoyArgs: []string{"--route", "admin=/admin"},
	}
	for _, prefix := range []string{"/a", "/A", "/c", "/abc", "/allowed"} {
		spec.EnvoyArgs = append(spec.EnvoyArgs, "--route", "open="+prefix)
	}
	e := harness.StartEngine(t, spec)

	// Vectors of Envoy's own tests (source and licence in the file), and bypasses from advisories.
	var vectors struct {
		Invalid       []string
		Normalize     [][2]string
		MergeSlashes  [][2]string       `json:"merge_slashes"`
		Unescape      [][2]string       `json:"unescape_slashes"`
		RemoveQuery   [][2]string       `json:"remove_query_fragment"`
		FromAdvisores map[string]string `json:"extra_bypass_from_advisories"`
	}
	data, err := os.ReadFile("testdata/path_vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	passed := 0
	for _, v := range append(vectors.Normalize, vectors.MergeSlashes...) {
		if got, ok := sendPath(t, e, v[0]); ok {
			passed++
			if want := v[1]; got != want {
				t.Errorf("%q arrives as %q, want %q", v[0], got, want)
			}
		}
	}
	if passed < 8 {
		t.Errorf("%d of the paths passed; too few to prove anything", passed)
	}
	targets := append(vectors.Invalid, "/allowed/../admin", "/allowed/%2e%2e/admin", "/allowed/%2E%2e%2fadmin", "/allowed/..%2fadmin", "/allowed/..%2Fadmin", "/allowed/..%5cadmin",
		"/allowed/..\\admin", "/allowed/%252e%252e/admin", "/allowed/.%2e/admin", "/allowed//../admin", "/allowed/..//admin", "/allowed/..;/admin", "/allowed/;/../admin", "/allowed/./../admin",
		"/allowed%2f..%2fadmin", "/admin", "/admin/", "/admin/x", "/admin/.", "/admin//x", "//admin", "///admin///x", "/./admin", "/x/../admin", "/%2e/admin", "/admin?x", "/admin#x", "/admin/../admin",
		"http://e2e.example/admin", "http://e2e.example//admin", "/a/../admin", "/a/..%00/admin", "/allowed/%00/../admin", "/allowed\t/../admin", "*", "")
	for _, group := range [][][2]string{vectors.Unescape, vectors.RemoveQuery} {
		for _, v := range group {
			targets = append(targets, v[0])
		}
	}
	for target := range vectors.FromAdvisores {
		targets = append(targets, target, strings.ReplaceAll(target, " (no leading slash)", ""))
	}
	for _, target := range targets {
		sendPath(t, e, target)
	}
	for _, target := range []string{"/admin", "/admin/", "//admin", "/allowed/../admin", "/allowed/%2e%2e/admin", "/%61dmin"} {
		r := harness.Send(t, e.Listen, http.MethodGet, target, mustNotArrive+"it is /admin")
		if r.Status == 200 {
			t.Errorf("%q: %v", target, r)
		}
	}
	checkLogs(t, e, []string{"a"})
}

// sendPath sends a path and returns what the upstream got, if it got something.
func sendPath(t *testing.T, e *harness.Engine, target string) (string, bool) {
	t.Helper()
	before := e.Upstream.Count()
	r, err := harness.TrySend(e.Listen, http.MethodGet, target)
	if err != nil {
		if e.Upstream.Count() != before {
			t.Errorf("%q reached the upstream, and its client got %v", target, err)
		}
		return "", false // Envoy ended the connection.
	}
	if e.Upstream.Count() == before {
		if r.Status < 400 && r.Status != 307 {
			t.Errorf("%q did not reach the upstream, and its client got %v", target, r)
		}
		return "", false
	}
	up := arrived(t, e, before)
	wantHeader(t, up.Header, "X-Seen-Path", "GET "+up.Path+" header= metadata= identity=nobody")
	for _, reading := range readings(up.Path) {
		if reading == "/admin" || strings.HasPrefix(reading, "/admin/") {
			t.Errorf("%q reached the upstream as %q, which it may read as %q", target, up.Path, reading)
		}
	}
	return up.Path, true
}

// readings are the paths that an upstream may make of one: as it is, and decoded once, with dots and slashes taken away and backslashes for slashes.
func readings(target string) []string {
	plain, _, _ := strings.Cut(target, "?")
	all := []string{plain, path.Clean(plain)}
	if decoded, err := url.PathUnescape(plain); err == nil {
		all = append(all, decoded, path.Clean(decoded), path.Clean(strings.ReplaceAll(decoded, `\`, "/")))
		if i := strings.IndexByte(decoded, 0); i >= 0 {
			all = append(all, path.Clean(decoded[:i]))
		}
	}
	return all
}
