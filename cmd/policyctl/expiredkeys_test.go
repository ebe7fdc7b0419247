package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestValidateExpiredKeys: a key file in which no key is valid refuses every client.
func TestValidateExpiredKeys(t *testing.T) {
	dir := t.TempDir()
	key := func(digit, more string) string {
		return "  - {id: alice, sha256: \"" + strings.Repeat(digit, 64) + "\"" + more + "}\n"
	}
	keys, kernel, worker := filepath.Join(dir, "keys.yaml"), filepath.Join(dir, "kernel.yaml"), filepath.Join(dir, "worker.yaml")
	writeFile(t, kernel, "policy_kernel:\n  workers: [{name: w, socket_path: "+dir+"/w.sock}]\n  route_policies: [{route_name: public}]\n")
	writeFile(t, worker, "policy_worker:\n  name: w\n  socket_path: "+dir+"/w.sock\n  key_stores: {partners: {file: "+keys+"}}\n")
	// The clock of the tests is at 2026-11-01T12:00:00Z.
	expired, early := key("1", ", expires: 2026-11-01T12:00:00Z"), key("2", ", not_before: 2026-11-01T12:00:01Z")
	for _, tc := range []struct{ keys, want string }{
		{expired, "has no key that is valid now, of 1 expired and 0 not yet valid"},
		{expired + early, "has no key that is valid now, of 1 expired and 1 not yet valid"},
		{expired + early + key("3", ", not_before: 2026-11-01T12:00:00Z, expires: 2026-11-01T12:00:01Z"), ""},
	} {
		writeFile(t, keys, "keys:\n"+tc.keys)
		r := run(t, "", "validate", "--kernel", kernel, "--worker", worker)
		if (r.status == exitOK) != (tc.want == "") || !strings.Contains(r.stderr, tc.want) {
			t.Errorf("%s: %+v, want %q", tc.keys, r, tc.want)
		}
	}
}
