package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const someKeys = `{"keys":[
 {"kty":"OKP","crv":"Ed25519","kid":"good","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
 {"kty":"OKP","crv":"Ed25519","kid":"good","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
 {"kty":"OKP","crv":"Ed25519","kid":"enc","use":"enc","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
 {"kty":"oct","kid":"shared","k":"c2VjcmV0LXRoYXQtbXVzdC1ub3QtYmUtc2hvd24"},
 {"kty":"\u001b[31m","kid":"\u001b[2J"}]}`

func TestJWKS(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	server := httptest.NewServer(nil)
	defer server.Close()
	server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			_, _ = io.WriteString(w, `{"issuer":"`+server.URL+`","jwks_uri":"`+server.URL+`/jwks"}`)
		case "/jwks":
			_, _ = io.WriteString(w, someKeys)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	keys := []string{
		`keys[0]  kid "good"`, "used", "not used: the same as a key before it", `not used: kid "enc": its use is "enc", expected sig`,
		`not used: kid "shared": a symmetric key`, `kid "\x1b[2J"`, `unknown kty "\x1b[31m"`,
	}
	for name, tc := range map[string]struct {
		args   []string
		status int
		want   []string
	}{
		"file":          {[]string{file("set", someKeys)}, exitOK, keys},
		"URL":           {[]string{server.URL + "/jwks"}, exitOK, keys},
		"issuer":        {[]string{"--discover", server.URL}, exitOK, append([]string{"jwks_uri: " + server.URL + "/jwks"}, keys...)},
		"other issuer":  {[]string{"--discover", server.URL + "/"}, exitFailed, []string{"exactly"}},
		"no key counts": {[]string{file("none", `{"keys":[{"kty":"oct","k":"AA"}]}`)}, exitFailed, []string{"the key set has 1 keys, and none that verifies tokens"}},
		"no key set":    {[]string{file("broken", "{}")}, exitFailed, []string{`no member "keys"`}},
		"missing file":  {[]string{filepath.Join(dir, "missing")}, exitFailed, []string{"no such file"}},
		"not there":     {[]string{server.URL + "/x"}, exitFailed, []string{"status 404"}},
		"plain http":    {[]string{"http://keys.invalid/jwks"}, exitFailed, []string{"can be changed on its way"}},
		"nothing":       {nil, exitUsage, []string{"expected one URL or file, got 0"}},
		"file, issuer":  {[]string{"--discover", "x"}, exitUsage, []string{"--discover takes the URL of an issuer"}},
	} {
		var out bytes.Buffer
		p := &program{stdout: &out, stderr: &out}
		status := p.run(append([]string{"jwks"}, tc.args...))
		for _, want := range tc.want {
			if !strings.Contains(out.String(), want) || status != tc.status {
				t.Errorf("%s: status %d, want %d, and %q in:\n%s", name, status, tc.status, want, &out)
			}
		}
		if strings.Contains(out.String(), "c2VjcmV0") || strings.ContainsRune(out.String(), '\x1b') {
			t.Errorf("%s: a secret or a control character is shown:\n%s", name, &out)
		}
	}
}
