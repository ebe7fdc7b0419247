package kernel

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/filemode"
	"github.com/policy-engine/policy-engine/telemetry"
	"github.com/policy-engine/policy-engine/watch"
)

// maxTokenFile is the longest file with a token, in bytes.
const maxTokenFile = 4 << 10

// access decides who may use the guarded pages of the admin server. With an admin token, everyone needs it. Without one, only peers on this machine that speak for themselves may: neither a
// page of a browser on this machine, which is known by what browsers add to its requests and by a Host that a rebound name brings, nor a proxy on this machine.
type access struct {
	config   func() *config.Kernel
	log      *zap.Logger
	throttle *telemetry.Throttle
}

// guard refuses requests that may not see a page.
func (a *access) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, why := a.refuse(r)
		if status == 0 {
			next.ServeHTTP(w, r)
			return
		}
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Bearer realm="policy-kernel"`)
		}
		http.Error(w, why, status)
	})
}

// allowed reports whether a request may see guarded pages.
func (a *access) allowed(r *http.Request) bool {
	status, _ := a.refuse(r)
	return status == 0
}

// refuse returns the status and the reason of a refusal, or 0.
func (a *access) refuse(r *http.Request) (status int, why string) {
	if fromPage(r) {
		return http.StatusForbidden, "not for pages of a browser"
	}
	if !a.served(r) {
		return http.StatusForbidden, "not served at this address; set policy_kernel.admin.guarded_address"
	}
	lines := r.Header.Values("Authorization")
	if a.hasToken() {
		if len(lines) == 1 {
			if scheme, token, _ := strings.Cut(lines[0], " "); strings.EqualFold(scheme, "Bearer") && a.holds(strings.TrimSpace(token)) {
				return 0, ""
			}
		}
		return http.StatusUnauthorized, "only for holders of the admin token"
	}
	if len(lines) > 0 {
		return http.StatusUnauthorized, "no admin token is configured; set policy_kernel.admin.token"
	}
	if !local(r) {
		return http.StatusForbidden, "only for peers on this machine; for others, set policy_kernel.admin.token"
	}
	if sign := proxied(r); sign != "" {
		return http.StatusForbidden, "not through a proxy, which " + sign + " is a sign of; set policy_kernel.admin.token"
	}
	return 0, ""
}

// fromPage reports whether a page made a browser send the request. Browsers say with each request that is not a plain visit where it comes from (Fetch, "Origin header"; Fetch Metadata
// Request Headers); a visit, or a link on a page of ours, only reads.
func fromPage(r *http.Request) bool {
	if r.Header.Get("Origin") != "" {
		return true
	}
	site := r.Header.Get("Sec-Fetch-Site")
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	return site != "" && (!reads || site != "none" && site != "same-origin")
}

// guardedKey is the key of a request's context under which requests of a listener of their own for the guarded pages are marked.
type guardedKey struct{}

// served reports whether guarded pages are served where the request came in.
func (a *access) served(r *http.Request) bool {
	own, _ := r.Context().Value(guardedKey{}).(bool)
	switch a.config().Admin.GuardedAddress {
	case config.GuardedAll:
		return true
	case config.GuardedLoopback, "":
		at, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		return loopback(at)
	default:
		return own
	}
}

// loopback reports whether an address is this machine's own.
func loopback(at net.Addr) bool {
	tcp, ok := at.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// local reports whether the peer is on this machine, and calls us by an address or by the name of this machine. The peers of a Unix socket are: its mode lets in the user of the kernel only.
func local(r *http.Request) bool {
	if at, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && at.Network() == "unix" {
		return true
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().Unmap().IsLoopback() {
		return false
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	_, err = netip.ParseAddr(host)
	return err == nil || strings.EqualFold(host, "localhost")
}

// ownHeaders are the header fields that clients send of their own accord: curl, browsers, Go's client and ours. All others are taken for a sign of a proxy, which adds fields of many names:
// forwarded, via, x-forwarded-*, x-real-ip, x-request-id, x-envoy-*, cf-*, true-client-ip, traceparent.
var ownHeaders = map[string]bool{
	"Accept": true, "Accept-Charset": true, "Accept-Encoding": true, "Accept-Language": true, "Cache-Control": true, "Connection": true, "Content-Encoding": true, "Content-Length": true,
	"Content-Type": true, "Cookie": true, "Date": true, "Dnt": true, "Expect": true, "If-Match": true, "If-Modified-Since": true, "If-None-Match": true, "If-Range": true,
	"If-Unmodified-Since": true, "Keep-Alive": true, "Pragma": true, "Priority": true, "Range": true, "Referer": true, "Sec-Gpc": true, "Te": true, "Transfer-Encoding": true,
	"Upgrade-Insecure-Requests": true, "User-Agent": true, "X-Prometheus-Scrape-Timeout-Seconds": true,
}

// ownPrefixes begin the names of further fields of browsers.
var ownPrefixes = []string{"Sec-Fetch-", "Sec-Ch-"}

// proxied returns what shows that a proxy has sent the request on, or an empty text. What it says of the client does not count: without a token, requests through proxies are refused.
func proxied(r *http.Request) string {
	if !r.ProtoAtLeast(1, 1) {
		return r.Proto // nginx speaks it with upstreams unless it is told otherwise.
	}
	if r.URL.IsAbs() {
		return "an absolute request target"
	}
	for name := range r.Header {
		if !ownHeaders[name] && !slices.ContainsFunc(ownPrefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			return "the header field " + name[:min(len(name), maxLogged)]
		}
	}
	return ""
}

func (a *access) hasToken() bool {
	admin := a.config().Admin
	return admin.Token != "" || admin.TokenFile != ""
}

// holds reports whether the token is the admin's. The digests are compared, in a time that tells nothing of them.
func (a *access) holds(token string) bool {
	admin := a.config().Admin
	want := admin.Token
	if admin.TokenFile != "" {
		content, err := watch.ReadChecked(admin.TokenFile, maxTokenFile, filemode.CheckFile)
		if err != nil {
			if suppressed, ok := a.throttle.Allow("token_file"); ok {
				a.log.Error("admin token not read; nobody holds it", zap.Error(err), zap.Int("suppressed", suppressed))
			}
			return false
		}
		want = strings.TrimSpace(string(content))
	}
	if len(want) < 16 {
		return false
	}
	x, y := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(want))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}
