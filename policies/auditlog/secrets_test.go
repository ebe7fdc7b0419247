package auditlog

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies/policytest"
)

// lineOf returns the line of a request and its response.
func lineOf(t testing.TB, request policytest.Request, response policytest.Response) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "audit")
	p := instance(t, policytest.NewEnv(t), fmt.Sprintf(`{"file": %q, "query": true, "request_headers": ["Referer", "X-Original-Url", "X-Api-Version"],
		"response_headers": ["Location", "Link", "Content-Location", "Refresh"], "claims": ["picture"], "metadata": ["target"], "redact": ["coupon"]}`, file))
	e := policytest.NewExchange(request)
	if got := e.OnRequestHeaders(t, p); got.String() != "continue unchanged" {
		t.Error(got)
	}
	e.Respond(response)
	if got := e.OnResponseHeaders(t, p); got.String() != "continue unchanged" {
		t.Error(got)
	}
	p.written(t)
	lines := read(t, file)
	for _, line := range lines {
		fields(t, line)
	}
	return strings.Join(lines, "\n")
}

var secretNames = []string{
	"api_key", "API_KEY", "apiKey", "ApiKey", "api-key", "api.key", "api+key", "api_key[]", "api_key[0]", "a[api_key]", "a[b][api_key][]", "a.api_key", "a%5Bapi_key%5D", "a%5bapi%5fkey%5d",
	"%61pi_key", "%2561pi_key", "%252561pi_key", "a%255Bapi_key%255D", "pwd", "PWD", "pass", "sid", "PHPSESSID", "jsessionid", "JSESSIONID", "connect.sid", "otp", "otp1", "totp_code",
	"token", "token2", "tokenValue", "access_token", "accessToken", "accesstoken", "X-Auth-Token", "csrfmiddlewaretoken", "authenticity_token", "oauth_token", "user[password]", "user[new_password]",
	"password_confirmation", "passwd", "passphrase", "client_secret", "clientSecret", "secret", "AWSSecretKey", "X-Amz-Credential", "X-Amz-Signature", "sig", "signature", "hmac_signature", "key",
	"subscription-key", "Ocp-Apim-Subscription-Key", "account_key", "code", "user_pin", "ticket", "id_token", "id_token_hint", "client_assertion", "SAMLResponse", "session", "session_id", "user_session",
	"auth", "basic_auth", "jwt", "credentials", "cvv", "%zz", "token%", "coupon", "a[coupon]", "$token", "{token}", "\"token\"", strings.Repeat("x", 200), "%25252525255Ftoken",
}

// Whatever the name of a credential is wrapped in, its value is not written: in the query, in URLs of headers, and in
// parameters of the path.
func TestCredentialNames(t *testing.T) {
	for _, name := range secretNames {
		for _, line := range []string{
			lineOf(t, policytest.Request{Path: "/a?x=1&" + name + "=s3cr3t&y=2"}, policytest.Response{}),
			lineOf(t, policytest.Request{Path: "/a?x=1;" + name + "=s3cr3t;s3cr3t"}, policytest.Response{}),
			lineOf(t, policytest.Request{Path: "/a;" + name + "=s3cr3t/b"}, policytest.Response{}),
			lineOf(t, policytest.Request{Path: "/", Headers: []string{"referer: https://a.example/p?x=1&" + name + "=s3cr3t"}}, policytest.Response{}),
			lineOf(t, policytest.Request{Path: "/"}, policytest.Response{Headers: []string{"location: https://a.example/p#" + name + "=s3cr3t&x=1"}}),
			lineOf(t, policytest.Request{Path: "/?next=" + url.QueryEscape("https://a.example/p?"+name+"=s3cr3t")}, policytest.Response{}),
			lineOf(t, policytest.Request{Path: "/?next=" + url.QueryEscape(url.QueryEscape("https://a.example/p?"+name+"=s3cr3t"))}, policytest.Response{}),
		} {
			if strings.Contains(line, "s3cr3t") || !strings.Contains(line, redacted) {
				t.Errorf("%s: %s", name, line)
			}
		}
	}
	for _, name := range []string{
		"page", "max_tokens", "sort_key", "status", "pinned", "author", "passenger", "compass", "monkey", "codec", "zip_code", "country_code", "sidebar", "tokens", "signed", "a[page]", "idempotency_key",
	} {
		if line := lineOf(t, policytest.Request{Path: "/a?" + name + "=v4lue"}, policytest.Response{}); !strings.Contains(line, "v4lue") {
			t.Errorf("%s: %s", name, line)
		}
	}
}

// Credentials in URLs and objects, wherever they are written.
func TestCredentialsInValues(t *testing.T) {
	for _, value := range []string{
		"https://user:s3cr3t@a.example/p", "https://s3cr3t@a.example", "//user:s3cr3t@a.example/p?x=1", "https://us;er:s3&cr3t;s3cr3t@a.example/", "https://a@b:s3cr3t@a.example/",
		"https://a.example/?next=https://user:s3cr3t@b.example/&x=1", "https://a.example/?next=https%3A%2F%2Fuser%3As3cr3t%40b.example%2F", "https://a.example/?x=1#access_token=s3cr3t&state=2",
		"https://a.example/?token=a;s3cr3t", "https://a.example/?token=a?s3cr3t", "https://a.example/?token=a#s3cr3t", "https://a.example/?token=a,s3cr3t", "https://a.example/?token=a//s3cr3t@b",
		"https://a.example/?filter=%7B%22password%22%3A%22s3cr3t%22%7D", `https://a.example/?filter={"password":"s3cr3t"}`, `https://a.example/?f={"p\u0061ssword":"s3cr3t"}`,
		"https://a.example/?q=a+token%3Ds3cr3t", "https://a.example/p%3Ftoken%3Ds3cr3t", "https://a.example/?a%3Ftoken%3Ds3cr3t=1", "/relative?token=s3cr3t", "a?token=s3cr3t",
		"https://user:s3cr3t@" + strings.Repeat("a", 600), "https://user:" + strings.Repeat("s3cr3t", 100) + "@a.example/",
	} {
		for name, line := range map[string]string{
			"referer":          lineOf(t, policytest.Request{Path: "/", Headers: []string{"referer: " + value}}, policytest.Response{}),
			"x-original-url":   lineOf(t, policytest.Request{Path: "/", Headers: []string{"x-original-url: " + value, "x-original-url: again"}}, policytest.Response{}),
			"location":         lineOf(t, policytest.Request{Path: "/"}, policytest.Response{Headers: []string{"location: " + value}}),
			"content-location": lineOf(t, policytest.Request{Path: "/"}, policytest.Response{Headers: []string{"content-location: " + value}}),
			"link":             lineOf(t, policytest.Request{Path: "/"}, policytest.Response{Headers: []string{"link: <" + value + `>; rel="next"`}}),
			"refresh":          lineOf(t, policytest.Request{Path: "/"}, policytest.Response{Headers: []string{"refresh: 0; url=" + value}}),
			"query":            lineOf(t, policytest.Request{Path: "/?u=" + value}, policytest.Response{}),
			"query, encoded":   lineOf(t, policytest.Request{Path: "/?u=" + url.QueryEscape(value)}, policytest.Response{}),
		} {
			if strings.Contains(line, "s3cr3t") || !strings.Contains(line, redacted) {
				t.Errorf("%s: %s: %s", name, value, line)
			}
		}
	}
	for _, request := range []policytest.Request{
		{Authority: "user:s3cr3t@a.example", Path: "/"}, {Path: "https://user:s3cr3t@a.example/p"}, {Path: "/p;jsessionid=s3cr3t/q"}, {Path: "/p%3Btoken=s3cr3t"},
	} {
		if line := lineOf(t, request, policytest.Response{}); strings.Contains(line, "s3cr3t") || !strings.Contains(line, redacted) {
			t.Errorf("%+v: %s", request, line)
		}
	}
	for value, want := range map[string]string{
		"https://a.example/p?page=2&q=100%25&next=%2Fhome":  `"referer":"https://a.example/p?page=2&q=100%25&next=%2Fhome"`,
		"https://u:p@a.example/p?page=2&token=x&y=1#top":    `"referer":"https://[redacted]@a.example/p?page=2&token=[redacted]&y=1#top"`,
		"https://a.example/@scope/p?mail=a@b.example&t=1:2": `"referer":"https://a.example/@scope/p?mail=a@b.example&t=1:2"`,
		"https://a.example/?code=x&state=af0ifjsldkj":       `"referer":"https://a.example/?code=[redacted]&state=af0ifjsldkj"`,
	} {
		if line := lineOf(t, policytest.Request{Path: "/", Headers: []string{"referer: " + value}}, policytest.Response{}); !strings.Contains(line, want) {
			t.Errorf("%s: %s", value, line)
		}
	}
}

// A value that is too long to be searched is not written.
func TestLongValuesAreNotSearched(t *testing.T) {
	for _, value := range []string{strings.Repeat("%3D", maxSearched/3+1), strings.Repeat("a=", maxSearched), "{" + strings.Repeat("a:", maxSearched)} {
		if line := lineOf(t, policytest.Request{Path: "/?x=" + value + "&y=1"}, policytest.Response{}); !strings.Contains(line, `"query":"x=[redacted]&y=1"`) {
			t.Errorf("%.20s: %s", value, line)
		}
	}
}

// FuzzCredentials: no text makes a line that is not JSON, or writes the value of a parameter that any of the usual readers
// finds under the name of a credential.
func FuzzCredentials(f *testing.F) {
	for _, name := range secretNames {
		f.Add("x=1&" + name + "=")
	}
	f.Add("a//b@c?")
	f.Fuzz(func(t *testing.T, before string) {
		e := event{query: true, redact: newNames(credentials)}
		line := string(e.text([]byte(`{"a":"`), []byte(before+"&token=s3cr3t&x="+before), false)) + `"}`
		fields(t, line)
		if len(before) < 256 && strings.Contains(strings.ReplaceAll(line, before, ""), "s3cr3t") {
			t.Error(line)
		}
	})
}
