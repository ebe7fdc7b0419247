package jwks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// fetchTimeout is for a whole fetch: connecting, redirects and the body.
	fetchTimeout = 10 * time.Second

	minAge     = time.Minute
	maxAge     = time.Hour
	defaultAge = 5 * time.Minute
)

// newClient makes a client that goes nowhere but to the host that it is sent to: the operator named that one.
func newClient(transport http.RoundTripper) *http.Client {
	if transport == nil {
		transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			ForceAttemptHTTP2:      true,
			MaxIdleConns:           1,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		}
	}
	return &http.Client{
		Transport: transport,
		Timeout:   fetchTimeout,
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

func checkURI(uri string) error {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return errors.New("its jwks_uri is not an http or https URL without credentials")
	}
	return nil
}

// fetch gets the key set, and how long it may be used until the next fetch.
func fetch(ctx context.Context, client *http.Client, uri string) ([]byte, time.Duration, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch key set: %w", err)
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch key set: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("fetch key set %q: status %d", uri, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxSetSize+1))
	if err != nil {
		return nil, 0, fmt.Errorf("fetch key set %q: %w", uri, err)
	}
	if len(body) > maxSetSize {
		return nil, 0, fmt.Errorf("fetch key set %q: more than %d bytes", uri, maxSetSize)
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
