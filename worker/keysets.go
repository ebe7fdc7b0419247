package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/policy-engine/policy-engine/telemetry"
	"github.com/policy-engine/policy-engine/worker/jwks"
)

// keySet is what the worker shows of an issuer's keys.
type keySet struct {
	name     string // of the issuer
	remote   bool   // the keys come from a URL
	required bool
	issuer   *jwks.Issuer
}

type keySets []keySet

// unready returns why the worker is not to get calls, empty if it is: a required key set was never loaded.
func (k keySets) unready() string {
	for i := range k {
		if k[i].required && !k[i].issuer.Status().Loaded {
			return fmt.Sprintf("the key set of JWT issuer %q, which is required, was never loaded", k[i].name)
		}
	}
	return ""
}

// warnings says which key sets an operator has to look at. It names no files and no URLs.
func (k keySets) warnings() (all []string) {
	for i := range k {
		switch s := k[i].issuer.Status(); {
		case s.Broken.IsZero():
		case s.Loaded:
			all = append(all, fmt.Sprintf("the key set of JWT issuer %q cannot be loaded since %s; the keys of %s stay in use", k[i].name, shown(s.Broken), shown(s.Confirmed)))
		default:
			all = append(all, fmt.Sprintf("the key set of JWT issuer %q cannot be loaded since %s, and was never loaded: its tokens are refused", k[i].name, shown(s.Broken)))
		}
	}
	return all
}

// measure shows the state of all key sets. Labels are names of the configuration.
func (k keySets) measure(m *meters, now func() time.Time) {
	for i := range k {
		issuer := k[i].issuer
		series := func(name string) string { return telemetry.Series(name, "issuer", k[i].name) }
		failures := m.set.NewCounter(series("policy_worker_jwt_keys_failures_total"))
		m.gauge(series("policy_worker_jwt_keys"), func() float64 {
			s := issuer.Status()
			failures.Set(s.Failures) // The set writes this gauge before the counter, whose name comes later.
			return float64(s.Keys)
		})
		m.gauge(series("policy_worker_jwt_keys_loaded"), func() float64 {
			if issuer.Status().Loaded {
				return 1
			}
			return 0
		})
		if !k[i].remote {
			continue // A file may stay as it is for as long as it likes.
		}
		began := now()
		m.gauge(series("policy_worker_jwt_keys_age_seconds"), func() float64 {
			since := issuer.Status().Confirmed
			if since.IsZero() {
				since = began
			}
			return now().Sub(since).Seconds()
		})
	}
}

// KeyReport is what becomes of a key of a key set.
type KeyReport struct {
	// Place is where the key is, such as "keys[0]". ID is its kid, Type its type and Algorithm the alg that it is bound to; they may be empty.
	Place, ID, Type, Algorithm string
	// Problem is why the key is not used, empty if it is.
	Problem string
}

// InspectKeySet reads a key set as a worker does, and returns what becomes of each key.
func InspectKeySet(content []byte) ([]KeyReport, error) {
	entries, err := jwks.Inspect(content)
	if err != nil {
		return nil, err
	}
	reports := make([]KeyReport, 0, len(entries))
	for _, e := range entries {
		r := KeyReport{Place: e.Place, ID: e.ID, Type: e.Type, Algorithm: e.Key.Algorithm}
		switch {
		case e.Err != nil:
			r.Problem = e.Err.Error()
		case e.Repeated:
			r.Problem = "the same as a key before it"
		}
		reports = append(reports, r)
	}
	return reports, nil
}

// KeySetSource is where FetchKeySet gets a key set.
type KeySetSource struct {
	// URI is the URL of the key set. Without it, Issuer is an issuer whose configuration document says where it is.
	URI, Issuer string
	// CAFile has the authorities of the server's certificate; empty for the system's.
	CAFile string
	// AllowHTTP allows plain http to other machines.
	AllowHTTP bool
}

// FetchKeySet gets a key set as a worker does, and returns the URL that it came from.
func FetchKeySet(ctx context.Context, s KeySetSource) (content []byte, from string, err error) {
	content, from, err = jwks.Fetch(ctx, s.URI, s.Issuer, s.CAFile, s.AllowHTTP)
	if err != nil {
		return nil, "", fmt.Errorf("get key set: %w", err)
	}
	return content, from, nil
}
