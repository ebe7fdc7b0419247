package kernel

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/telemetry"
)

const testToken = "0123456789abcdef"

func TestAccess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(testToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	none, token, tokenFile := config.Admin{}, config.Admin{Token: testToken}, config.Admin{TokenFile: file}
	const here, far = "127.0.0.1:4000", "192.0.2.7:4000"
	bearer := []string{"Authorization", "Bearer " + testToken}
	tests := []struct {
		name    string
		admin   config.Admin
		method  string
		peer    string
		host    string
		headers []string
		want    int
	}{
		{"this machine", none, "GET", here, "localhost:9090", nil, 200},
		{"this machine, IPv6", none, "GET", "[::1]:4000", "[::1]:9090", nil, 200},
		{"this machine, IPv4 in IPv6", none, "GET", "[::ffff:127.0.0.1]:4000", "127.0.0.1", nil, 200},
		{"this machine changes something", none, "POST", here, "127.0.0.1:9090", nil, 200},
		{"this machine without a Host", none, "GET", here, "", nil, 403},
		{"another machine", none, "GET", far, "localhost:9090", nil, 403},
		{"another machine that says it is this one", none, "GET", far, "localhost", []string{"X-Forwarded-For", "127.0.0.1", "X-Real-Ip", "127.0.0.1", "Forwarded", "for=127.0.0.1"}, 403},
		{"another machine, IPv6", none, "GET", "[2001:db8::1]:4000", "localhost", nil, 403},
		{"no peer", none, "GET", "", "localhost", nil, 403},
		{"a peer that is no address", none, "GET", "@", "localhost", nil, 403},
		{"a proxy on this machine", none, "GET", here, "localhost", []string{"X-Forwarded-For", "192.0.2.7"}, 403},
		{"a proxy on this machine, RFC 7239", none, "GET", here, "localhost", []string{"Forwarded", "for=192.0.2.7"}, 403},
		{"a rebound name", none, "GET", here, "attacker.example:9090", nil, 403},
		{"a name that begins like this machine's", none, "GET", here, "localhost.attacker.example", nil, 403},
		{"a name that begins like an address", none, "GET", here, "127.0.0.1.attacker.example", nil, 403},
		{"a page of a browser", none, "POST", here, "localhost:9090", []string{"Origin", "https://attacker.example"}, 403},
		{"a page without an origin of its own", none, "POST", here, "localhost:9090", []string{"Origin", "null"}, 403},
		{"a form", none, "POST", here, "localhost:9090", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"a form that is a visit", none, "POST", here, "localhost:9090", []string{"Sec-Fetch-Site", "none"}, 403},
		{"an image on a page", none, "GET", here, "localhost:9090", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"an image on a page of the same site", none, "GET", here, "localhost:9090", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"a visit", none, "GET", here, "localhost:9090", []string{"Sec-Fetch-Site", "none"}, 200},
		{"a link on a page of ours", none, "GET", here, "localhost:9090", []string{"Sec-Fetch-Site", "same-origin"}, 200},

		{"a token where there is none", none, "GET", here, "localhost", bearer, 401},
		{"an empty token where there is none", none, "GET", here, "localhost", []string{"Authorization", "Bearer "}, 401},
		{"the token", token, "GET", far, "kernel.example", bearer, 200},
		{"the token changes something", token, "PUT", far, "kernel.example", bearer, 200},
		{"the token through a proxy", token, "GET", here, "kernel.example", append([]string{"X-Forwarded-For", "192.0.2.7"}, bearer...), 200},
		{"the token of a file", tokenFile, "GET", far, "kernel.example", bearer, 200},
		{"this machine without the token", token, "GET", here, "localhost", nil, 200},
		{"another machine without the token", token, "GET", far, "kernel.example", nil, 401},
		{"another token", token, "GET", far, "kernel.example", []string{"Authorization", "Bearer 0123456789abcdeF"}, 401},
		{"a longer token", token, "GET", far, "kernel.example", []string{"Authorization", "Bearer " + testToken + "0"}, 401},
		{"another token on this machine", token, "GET", here, "localhost", []string{"Authorization", "Bearer x"}, 401},
		{"another scheme", token, "GET", far, "kernel.example", []string{"Authorization", "Basic " + testToken}, 401},
		{"two tokens", token, "GET", far, "kernel.example", append([]string{"Authorization", "Bearer x"}, bearer...), 401},
		{"a page with the token", token, "POST", far, "kernel.example", append([]string{"Origin", "https://attacker.example"}, bearer...), 403},
		{"no file", config.Admin{TokenFile: "/nowhere"}, "GET", far, "kernel.example", bearer, 401},
		{"a file with too short a token", config.Admin{TokenFile: short}, "GET", far, "kernel.example", []string{"Authorization", "Bearer short"}, 401},
		{"a folder for the file", config.Admin{TokenFile: "/"}, "GET", far, "kernel.example", []string{"Authorization", "Bearer "}, 401},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := &access{
				config: func() *config.Kernel { return &config.Kernel{Admin: tt.admin} }, log: zap.NewNop(), throttle: telemetry.NewThrottle(time.Minute, time.Now),
			}
			req := httptest.NewRequest(tt.method, "/", nil)
			req.RemoteAddr, req.Host = tt.peer, tt.host
			for i := 0; i < len(tt.headers); i += 2 {
				req.Header.Add(tt.headers[i], tt.headers[i+1])
			}
			w := httptest.NewRecorder()
			a.guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, req)
			if w.Code != tt.want || (w.Code == 401) != (w.Header().Get("WWW-Authenticate") != "") {
				t.Errorf("%d %v %s, want %d", w.Code, w.Header(), w.Body, tt.want)
			}
		})
	}
}

// TestGuardedPages: all pages but metrics and health are guarded.
func TestGuardedPages(t *testing.T) {
	path := socketPath(t)
	(&fakeWorker{name: "worker-1", policies: []string{"guard"}}).start(t, path)
	r := launch(t, path, nil)
	r.ready()
	for page, guarded := range map[string]bool{
		"GET /metrics": false, "GET /health/live": false, "GET /health/ready": false,
		"GET /config": true, "POST /config/reload": true, "GET /workers": true, "GET /routes": true, "GET /log/level": true, "PUT /log/level": true,
		"GET /debug/pprof/cmdline": true, "GET /workers/worker-1/debug/pprof/heap": true,
	} {
		method, target, _ := cut(page)
		req, err := http.NewRequest(method, "http://"+r.admin.String()+target, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "attacker.example"
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if refused := resp.StatusCode == http.StatusForbidden; refused != guarded {
			t.Errorf("%s: %d", page, resp.StatusCode)
		}
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}
