package kernel

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"go.uber.org/zap"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/telemetry"
	"github.com/policy-engine/policy-engine/watch"
)

// maxTokenFile is the longest file with a token, in bytes.
const maxTokenFile = 4 << 10

// access decides who may use the pages of the admin server that are not for everyone: peers on this machine, and holders of the admin token. A page of a browser on this machine
// is neither, whatever it makes the browser send: such requests are known by what browsers add to them, and by a Host that a rebound name brings.
type access struct {
	config   func() *config.Kernel
	log      *zap.Logger
	throttle *telemetry.Throttle
}

// guard refuses who may not.
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

// refuse says why a request is refused, or 0.
func (a *access) refuse(r *http.Request) (status int, why string) {
	if fromPage(r) {
		return http.StatusForbidden, "not for pages of a browser"
	}
	if lines := r.Header.Values("Authorization"); len(lines) > 0 {
		if scheme, token, _ := strings.Cut(lines[0], " "); len(lines) == 1 && strings.EqualFold(scheme, "Bearer") && a.holds(strings.TrimSpace(token)) {
			return 0, ""
		}
		return http.StatusUnauthorized, "not the admin token"
	}
	switch {
	case local(r):
		return 0, ""
	case a.hasToken():
		return http.StatusUnauthorized, "only for peers on this machine and holders of the admin token"
	default:
		return http.StatusForbidden, "only for peers on this machine; for others, set policy_kernel.admin.token"
	}
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

// local reports whether the peer is on this machine, calls us by an address or by the name of this machine, and speaks for itself.
func local(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().Unmap().IsLoopback() {
		return false
	}
	for _, name := range [...]string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "Via"} {
		if len(r.Header.Values(name)) > 0 {
			return false // A proxy on this machine asks for somebody else.
		}
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	_, err = netip.ParseAddr(host)
	return err == nil || strings.EqualFold(host, "localhost")
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
		content, err := watch.Read(admin.TokenFile, maxTokenFile)
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
