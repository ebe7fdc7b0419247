package jwks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/fastpath/filemode"
	"github.com/policy-engine/policy-engine/watch"
)

const (
	// defaultTimeout is for a whole fetch: connecting, redirects and the body.
	defaultTimeout = 10 * time.Second

	minAge     = time.Minute
	maxAge     = time.Hour
	defaultAge = 5 * time.Minute
)

// newClient makes a client that goes nowhere but to the host that it is sent to: the operator named that one. authorities are those of the
// server's certificate, nil for the system's.
func newClient(transport http.RoundTripper, timeout time.Duration, authorities *x509.CertPool) *http.Client {
	if transport == nil {
		transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			ForceAttemptHTTP2:      true,
			MaxIdleConns:           2,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: authorities},
		}
	}
	if timeout == 0 {
		timeout = defaultTimeout
	}
	return &http.Client{
		Transport: transport,
		Timeout:   timeout,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			switch first := via[0].URL; {
			case r.URL.Host != first.Host || r.URL.Scheme != first.Scheme:
				return errors.New("redirect to another host or scheme")
			case len(via) > 3:
				return errors.New("more than 3 redirects")
			}
			return nil
		},
	}
}

// readAuthorities reads the certificates in file.
func readAuthorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	content, err := watch.ReadChecked(file, maxSetSize, filemode.CheckFile)
	if err != nil {
		return nil, fmt.Errorf("read tls.ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("read tls.ca_file %q: no certificate in it, expected certificates in PEM", file)
	}
	return pool, nil
}

// checkURL checks a URL that something is fetched from. Plain http to other machines is for operators who allow it.
func checkURL(text string, allowHTTP bool) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return fmt.Errorf("%q is not an http or https URL without credentials", text)
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if local := u.Hostname() == "localhost" || err == nil && addr.IsLoopback(); u.Scheme == "http" && !local && !allowHTTP {
		return fmt.Errorf("%q can be changed on its way, expected https, or allow_http: true", text)
	}
	return nil
}

// discover returns the jwks_uri of the issuer's configuration (OpenID Connect Discovery 1.0 section 4). The document must be that of the issuer:
// one that names another would let a server hand out the keys of a stranger.
func discover(ctx context.Context, client *http.Client, issuer string, allowHTTP bool) (string, error) {
	content, _, err := fetch(ctx, client, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return "", fmt.Errorf("discover jwks_uri: %w", err)
	}
	document, err := members(content)
	if err != nil {
		return "", fmt.Errorf("discover jwks_uri: the configuration document: %w", err)
	}
	if named, _, err := text(document, "issuer"); err != nil || named != issuer {
		return "", fmt.Errorf("discover jwks_uri: the configuration document is of issuer %q, expected %q exactly", named, issuer)
	}
	uri, _, err := text(document, "jwks_uri")
	if err == nil {
		err = checkURL(uri, allowHTTP)
	}
	if err != nil {
		return "", fmt.Errorf("discover jwks_uri: %w", err)
	}
	return uri, nil
}

// fetch gets a document, and how long it may be used until the next fetch.
func fetch(ctx context.Context, client *http.Client, uri string) ([]byte, time.Duration, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch: %w", err)
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json, application/x-pem-file")
	response, err := client.Do(request)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("fetch %q: status %d", uri, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxSetSize+1))
	if err != nil {
		return nil, 0, fmt.Errorf("fetch %q: %w", uri, err)
	}
	if len(body) > maxSetSize {
		return nil, 0, fmt.Errorf("fetch %q: more than %d bytes", uri, maxSetSize)
	}
	return body, age(response.Header), nil
}

// age is how long the answer may be used (RFC 9111 section 5.2.2), within bounds: an answer for ever would keep a
// revoked key for ever, one for no time at all would be fetched all the time.
func age(h http.Header) time.Duration {
	result := defaultAge
	for _, directive := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-store", "no-cache":
			return minAge
		case "max-age":
			seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
			if err != nil && !errors.Is(err, strconv.ErrRange) {
				continue
			}
			result = time.Duration(seconds) * time.Second
		}
	}
	return min(max(result, minAge), maxAge)
}

// Fetch gets a key set once, as an issuer's key set is fetched: from uri, or without it as the configuration document of issuer says. It
// returns where the set was.
func Fetch(ctx context.Context, uri, issuer, caFile string, allowHTTP bool) (content []byte, from string, err error) {
	authorities, err := readAuthorities(caFile)
	if err != nil {
		return nil, "", err
	}
	client := newClient(nil, 0, authorities)
	defer client.CloseIdleConnections()
	if uri == "" {
		if err := checkURL(issuer, allowHTTP); err != nil {
			return nil, "", err
		}
		if uri, err = discover(ctx, client, issuer, allowHTTP); err != nil {
			return nil, "", err
		}
	} else if err := checkURL(uri, allowHTTP); err != nil {
		return nil, "", err
	}
	content, _, err = fetch(ctx, client, uri)
	return content, uri, err
}
