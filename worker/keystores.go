package worker

import (
	"fmt"
	"time"

	"github.com/policy-engine/policy-engine/telemetry"
	"github.com/policy-engine/policy-engine/worker/keystore"
)

// keyFile is what the worker shows of a key store.
type keyFile struct {
	name  string // of the key store
	store *keystore.Store
}

type keyFiles []keyFile

// warnings says which key stores an operator has to look at. It names no files.
func (k keyFiles) warnings() (all []string) {
	for i := range k {
		s := k[i].store.Status()
		if !s.Broken.IsZero() {
			all = append(all, fmt.Sprintf("the file of key store %q cannot be loaded since %s; the keys of %s stay in use", k[i].name, shown(s.Broken), shown(s.Loaded)))
		}
		if s.Usable == 0 && s.Expired+s.Early > 0 {
			all = append(all, fmt.Sprintf("no key of key store %q is valid now: %d have expired, %d are not valid yet", k[i].name, s.Expired, s.Early))
		}
	}
	return all
}

func shown(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// measure shows the state of all key stores. Labels are names of the configuration.
func (k keyFiles) measure(m *meters, now func() time.Time) {
	for i := range k {
		store := k[i].store
		gauge := func(name string, value func(keystore.Status) float64, labels ...string) {
			m.gauge(telemetry.Series(name, append([]string{"key_store", k[i].name}, labels...)...), func() float64 { return value(store.Status()) })
		}
		gauge("policy_worker_api_keys", func(s keystore.Status) float64 { return float64(s.Usable) }, "state", "usable")
		gauge("policy_worker_api_keys", func(s keystore.Status) float64 { return float64(s.Expired) }, "state", "expired")
		gauge("policy_worker_api_keys", func(s keystore.Status) float64 { return float64(s.Early) }, "state", "early")
		gauge("policy_worker_api_keys_age_seconds", func(s keystore.Status) float64 { return now().Sub(s.Loaded).Seconds() })
		failures := m.set.NewCounter(telemetry.Series("policy_worker_api_keys_failures_total", "key_store", k[i].name))
		gauge("policy_worker_api_keys_broken_seconds", func(s keystore.Status) float64 {
			failures.Set(s.Failures) // The set writes this gauge before the counter, whose name comes later.
			if s.Broken.IsZero() {
				return 0
			}
			return now().Sub(s.Broken).Seconds()
		})
	}
}
