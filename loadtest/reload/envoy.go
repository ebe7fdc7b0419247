package reload

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/loadtest/rig"
)

const (
	// envoyConnections are the most of vegeta's requests under way.
	envoyConnections = 256
	// badQuery marks the requests that have to be refused.
	badQuery = "?bad"
)

// targets are one request of each client, and those with a bad credential among them.
func targets(target string, paths []string, c *credentials.Set) ([]vegeta.Target, error) {
	forged, err := c.Forged()
	if err != nil {
		return nil, err
	}
	// A multiple of badEvery, so that each turn has the same share.
	out := make([]vegeta.Target, max(len(c.Keys)/badEvery, 1)*badEvery)
	for i := range out {
		client := i % len(c.Keys)
		url, token := "http://"+target+rig.Path(paths[i%len(paths)], client), c.Tokens[client]
		if bad(i) {
			url, token = url+badQuery, forged
		}
		out[i] = vegeta.Target{Method: http.MethodGet, URL: url, Header: http.Header{"X-Api-Key": {c.Keys[client]}, "Authorization": {"Bearer " + token}}}
	}
	return out, nil
}

// holdEnvoy sends rate requests a second through Envoy for the duration. What is wrong with a request goes to the account.
func holdEnvoy(ctx context.Context, target []vegeta.Target, rate int, duration time.Duration, a *account) error {
	attacker := vegeta.NewAttacker(
		vegeta.Workers(64), vegeta.MaxWorkers(envoyConnections), vegeta.Connections(envoyConnections), vegeta.KeepAlive(true),
		vegeta.HTTP2(false), vegeta.Redirects(vegeta.NoFollow), vegeta.Timeout(drainTimeout),
	)
	defer context.AfterFunc(ctx, func() { attacker.Stop() })()
	// Each request ends within its timeout, so the results do.
	for r := range attacker.Attack(vegeta.NewStaticTargeter(target...), vegeta.Rate{Freq: rate, Per: time.Second}, duration, "reload") {
		refused := strings.HasSuffix(r.URL, badQuery)
		if wrong := judgeResult(r, refused); wrong != "" {
			a.fail(wrong)
		} else {
			a.answered(r.Timestamp, r.End(), refused)
		}
	}
	return context.Cause(ctx)
}

// judgeResult is judge for what came through Envoy.
func judgeResult(r *vegeta.Result, bad bool) string {
	switch {
	case r.Code == 0:
		return r.Error
	case bad && r.Code == http.StatusOK:
		return "a bad credential was let through"
	case bad && r.Code == http.StatusUnauthorized:
		return ""
	case r.Code != http.StatusOK || bad:
		return fmt.Sprintf("answered with %d", r.Code)
	case r.Error != "":
		return r.Error
	case r.Headers.Get(rig.EchoHeader) != r.URL[strings.LastIndexByte(r.URL, '/')+1:]:
		return "let through without the client's identity"
	}
	return ""
}
