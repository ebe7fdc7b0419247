package kernel

import (
	"context"
	"net"
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
	open := filepath.Join(t.TempDir(), "open")
	if err := os.WriteFile(open, []byte(testToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o666); err != nil {
		t.Fatal(err)
	}
	all := config.GuardedAll
	none, token, tokenFile := config.Admin{GuardedAddress: all}, config.Admin{Token: testToken, GuardedAddress: all}, config.Admin{TokenFile: file, GuardedAddress: all}
	loopback, loopbackToken := config.Admin{}, config.Admin{Token: testToken, GuardedAddress: config.GuardedLoopback}
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
		{"a proxy on this machine, HTTP/1.0", none, "HTTP/1.0", here, "localhost", nil, 403},
		{"a proxy on this machine, absolute target", none, "absolute", here, "localhost", nil, 403},
		{"a sidecar Envoy", none, "GET", here, "localhost", []string{"X-Request-Id", "1"}, 403},
		{"a sidecar Envoy without a request id", none, "GET", here, "localhost", []string{"X-Envoy-Expected-Rq-Timeout-Ms", "1"}, 403},
		{"a sidecar Envoy that says the scheme", none, "GET", here, "localhost", []string{"X-Forwarded-Proto", "http"}, 403},
		{"nginx", none, "GET", here, "localhost", []string{"X-Real-Ip", "192.0.2.7"}, 403},
		{"Cloudflare", none, "GET", here, "localhost", []string{"Cf-Connecting-Ip", "192.0.2.7"}, 403},
		{"a CDN", none, "GET", here, "localhost", []string{"True-Client-Ip", "192.0.2.7"}, 403},
		{"a loop of CDNs", none, "GET", here, "localhost", []string{"Cdn-Loop", "x"}, 403},
		{"a cache", none, "GET", here, "localhost", []string{"Via", "1.1 x"}, 403},
		{"a mesh", none, "GET", here, "localhost", []string{"Traceparent", "00-1-1-00"}, 403},
		{"a mesh with B3", none, "GET", here, "localhost", []string{"X-B3-Traceid", "1"}, 403},
		{"a proxy that nobody knows", none, "GET", here, "localhost", []string{"X-Its-Own", "1"}, 403},
		{"an empty field", none, "GET", here, "localhost", []string{"X-Forwarded-For", ""}, 403},
		{"curl", none, "PUT", here, "localhost:9090", []string{"User-Agent", "curl/8", "Accept", "*/*", "Content-Type", "application/x-www-form-urlencoded", "Content-Length", "5"}, 200},
		{"a browser", none, "GET", here, "localhost:9090", []string{"Sec-Fetch-Site", "none", "Sec-Ch-Ua", "x", "Sec-Fetch-Mode", "navigate", "Accept-Language", "en", "Cookie", "a=b", "Dnt", "1"}, 200},
		{"an address that is not loopback", loopback, "far", here, "localhost", nil, 403},
		{"a loopback address", loopback, "near", here, "localhost", nil, 200},
		{"the token at an address that is not loopback", loopbackToken, "far", far, "kernel.example", bearer, 403},
		{"the token at a loopback address", loopbackToken, "near", here, "localhost", bearer, 200},
		{"the admin port where the pages have their own", config.Admin{GuardedAddress: "127.0.0.1:1"}, "near", here, "localhost", nil, 403},
		{"the token on the admin port where the pages have their own", config.Admin{GuardedAddress: "/run/a.sock", Token: testToken}, "near", here, "localhost", bearer, 403},
		{"the address of their own", config.Admin{GuardedAddress: "127.0.0.1:1"}, "own", here, "localhost", nil, 200},
		{"the address of their own without the token", config.Admin{GuardedAddress: "127.0.0.1:1", Token: testToken}, "own", here, "localhost", nil, 401},
		{"the address of their own from another machine", config.Admin{GuardedAddress: "0.0.0.0:1"}, "own", far, "localhost", nil, 403},
		{"a Unix socket", config.Admin{GuardedAddress: "/run/a.sock"}, "unix", "@", "localhost", nil, 200},
		{"a Unix socket through a proxy", config.Admin{GuardedAddress: "/run/a.sock"}, "unix", "@", "localhost", []string{"X-Request-Id", "1"}, 403},
		{"a Unix socket without the token", config.Admin{GuardedAddress: "/run/a.sock", Token: testToken}, "unix", "@", "localhost", nil, 401},
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
		{"this machine without the token", token, "GET", here, "localhost", nil, 401},
		{"another machine without the token", token, "GET", far, "kernel.example", nil, 401},
		{"another token", token, "GET", far, "kernel.example", []string{"Authorization", "Bearer 0123456789abcdeF"}, 401},
		{"a longer token", token, "GET", far, "kernel.example", []string{"Authorization", "Bearer " + testToken + "0"}, 401},
		{"another token on this machine", token, "GET", here, "localhost", []string{"Authorization", "Bearer x"}, 401},
		{"another scheme", token, "GET", far, "kernel.example", []string{"Authorization", "Basic " + testToken}, 401},
		{"two tokens", token, "GET", far, "kernel.example", append([]string{"Authorization", "Bearer x"}, bearer...), 401},
		{"a page with the token", token, "POST", far, "kernel.example", append([]string{"Origin", "https://attacker.example"}, bearer...), 403},
		{"no file", config.Admin{TokenFile: "/nowhere", GuardedAddress: all}, "GET", far, "kernel.example", bearer, 401},
		{"a file with too short a token", config.Admin{TokenFile: short, GuardedAddress: all}, "GET", far, "kernel.example", []string{"Authorization", "Bearer short"}, 401},
		{"a file that anybody may write", config.Admin{TokenFile: open, GuardedAddress: all}, "GET", far, "kernel.example", bearer, 401},
		{"a folder for the file", config.Admin{TokenFile: "/", GuardedAddress: all}, "GET", far, "kernel.example", []string{"Authorization", "Bearer "}, 401},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := &access{
				config: func() *config.Kernel { return &config.Kernel{Admin: tt.admin} }, log: zap.NewNop(), throttle: telemetry.NewThrottle(time.Minute, time.Now),
			}
			var at net.Addr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 9090}
			method, target, own := tt.method, "/", false
			switch tt.method {
			case "near":
				method, at = "GET", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9090}
			case "far", "HTTP/1.0":
				method = "GET"
			case "own":
				method, own = "GET", true
			case "unix":
				method, own, at = "GET", true, &net.UnixAddr{Name: "/run/a.sock", Net: "unix"}
			case "absolute":
				method, target = "GET", "http://localhost/"
			}
			req := httptest.NewRequest(method, target, nil)
			if tt.method == "HTTP/1.0" {
				req.Proto, req.ProtoMinor = "HTTP/1.0", 0
			}
			req = req.WithContext(context.WithValue(context.WithValue(req.Context(), http.LocalAddrContextKey, at), guardedKey{}, own))
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
