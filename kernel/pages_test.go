package kernel

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/kernel/route"
)

func cut(page string) (method, target string, ok bool) { return strings.Cut(page, " ") }

// call asks the admin server for a page, "GET /config".
func (r *running) call(page, body string) (int, string) {
	r.t.Helper()
	method, target, _ := cut(page)
	req, err := http.NewRequest(method, "http://"+r.admin.String()+target, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestPages(t *testing.T) {
	t.Setenv("ADMIN_TOKEN", testToken)
	path := socketPath(t)
	(&fakeWorker{name: "worker-1", policies: []string{"guard"}}).start(t, path)
	w := workerText(path)
	r := launchFile(t, kernelText("  admin: {token: \"${ADMIN_TOKEN}\"}\n", w, "a", "ab", "b"))
	r.ready()

	var page effective
	code, body := r.call("GET /config", "")
	if err := json.Unmarshal([]byte(body), &page); err != nil || code != 200 || page.File != r.file || len(page.SHA256) != 64 || page.Generation == 0 || page.LastReload != nil ||
		page.LogLevel != "info" || fmt.Sprint(page.Config["unknown_route"]) != "map[action:deny status:404]" || strings.Contains(body, testToken) {
		t.Errorf("/config: %d %s, %v", code, body, err)
	}
	if code, body := r.call("GET /workers", ""); code != 200 || !strings.Contains(body, `{"name":"worker-1","available":true`) {
		t.Errorf("/workers: %d %s", code, body)
	}
	for query, want := range map[string]string{
		"": "4: open a ab b", "?prefix=a": "2: a ab", "?limit=1&offset=2": "4: ab", "?offset=9": "4:", "?name=ab": "1: ab", "?name=x": "404 0:", "?prefix=x": "0:",
		"?limit=0": "400", "?limit=1001": "400", "?offset=-1": "400", "?limit=x": "400",
	} {
		code, body := r.call("GET /routes"+query, "")
		var page struct {
			Total  int
			Routes []route.Shown
		}
		got := ""
		if code != 200 {
			got = fmt.Sprint(code, " ")
		}
		if code != 400 {
			if err := json.Unmarshal([]byte(body), &page); err != nil {
				t.Fatal(err)
			}
			got += fmt.Sprintf("%d:", page.Total)
			for _, one := range page.Routes {
				got += " " + one.Name
			}
		}
		if strings.TrimSpace(got) != want {
			t.Errorf("/routes%s: %q, want %q", query, got, want)
		}
	}
	_, body = r.call("GET /routes?name=a", "")
	if want := `{"name":"a","request":{"body":"none","coded_body":"none","on_headers":[{"worker":"worker-1","chain":1,"timeout":"300ms","required":true,"policies":[{"name":"guard","on_failure":"deny"}]}]},"response":{"body":"none","coded_body":"none"}}`; !strings.Contains(body, want) {
		t.Errorf("the plan is %s", body)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestLevelPage(t *testing.T) {
	r := launch(t, socketPath(t), nil)
	for _, tt := range []struct {
		page, body string
		want       int
		level      string
	}{
		{"GET /log/level", "", 200, "info"},
		{"PUT /log/level", "debug\n", 200, "debug"},
		{"PUT /log/level", `{"level": "error"}`, 200, "error"},
		{"PUT /log/level", "loud", 400, "error"},
		{"PUT /log/level", "", 400, "error"},
		{"PUT /log/level", `{"level": 1}`, 400, "error"},
		{"PUT /log/level", strings.Repeat("x", 2000), 413, "error"},
		{"POST /log/level", "info", 405, "error"},
		{"GET /log/level", "", 200, "error"},
	} {
		code, body := r.call(tt.page, tt.body)
		if code != tt.want || code == 200 && body != `{"level":"`+tt.level+`"}`+"\n" {
			t.Errorf("%s %.20q: %d %s", tt.page, tt.body, code, body)
		}
		if got := r.logger.Level(); got != tt.level {
			t.Errorf("%s %.20q: the level is %s", tt.page, tt.body, got)
		}
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestReloadPage(t *testing.T) {
	path := socketPath(t)
	(&fakeWorker{name: "worker-1", policies: []string{"guard"}}).start(t, path)
	w := workerText(path)
	r := launchFile(t, kernelText("", w, "a"))
	r.ready()
	var generation uint64
	reload := func(text, status string, code int) Outcome {
		t.Helper()
		if text != "" {
			r.put(t, text)
		}
		got, body := r.call("POST /config/reload", "")
		var o Outcome
		if err := json.Unmarshal([]byte(body), &o); err != nil || got != code || o.Status != status || o.Cause != "admin" || o.File != r.file {
			t.Errorf("%d %s, %v; want %d %s", got, body, err, code, status)
		}
		return o
	}
	generation = reload("", "unchanged", 200).Generation
	if next := reload(kernelText("", w, "b"), "applied", 200); next.Generation <= generation || r.ask("b") != 0 || r.ask("a") != 500 {
		t.Errorf("it is not in use when the answer comes: %+v", next)
	}
	bad := reload("policy_kernel: {wrong: 1, limits: {max_body_size: x}}\n", "refused", 422)
	if len(bad.Mistakes) != 2 || !strings.HasPrefix(bad.Mistakes[0], r.file+":1: policy_kernel.") {
		t.Errorf("mistakes %q", bad.Mistakes)
	}
	var page effective
	if _, body := r.call("GET /config", ""); json.Unmarshal([]byte(body), &page) != nil || page.LastReload == nil || page.LastReload.Status != "refused" || page.SHA256 == bad.SHA256 || len(bad.SHA256) != 64 {
		t.Errorf("/config: %s", body)
	}
	time.Sleep(4 * settleFile) // The follower finds the file too.
	if good, bad := r.count("success"), r.count("failure"); good != "2\n" || bad != "1\n" {
		t.Errorf("the follower told again what the admin was told: %s successes, %s failures", good, bad)
	}
	if code, _ := r.call("GET /config/reload", ""); code != 405 {
		t.Errorf("GET reloads: %d", code)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
	n := launch(t, path, nil)
	if code, _ := n.call("POST /config/reload", ""); code != 409 {
		t.Errorf("without a file: %d", code)
	}
	if err := n.end(); err != nil {
		t.Error(err)
	}
}
