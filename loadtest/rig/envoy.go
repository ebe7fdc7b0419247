package rig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/test/burst"
	"github.com/policy-engine/policy-engine/test/process"
)

const (
	typePrefix = "type.googleapis.com/envoy.extensions.filters."
	managerURL = typePrefix + "network.http_connection_manager.v3.HttpConnectionManager"
	routerURL  = typePrefix + "http.router.v3.Router"

	optionsName = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	optionsURL  = "type.googleapis.com/" + optionsName
)

// startEnvoy starts Envoy with what `policyctl envoy` prints, so that what is measured is what users get. Where the row is not about the engine, only
// the filter differs.
func (r *Rig) startEnvoy(c *credentials.Set) error {
	config, err := r.envoyConfig(c)
	if err != nil {
		return err
	}
	file, err := writeConfig(r.dir, "envoy.yaml", config)
	if err != nil {
		return err
	}
	// Of many routes, the configuration has been a gigabyte here, and the load's memory is told too.
	debug.FreeOSMemory()
	// --concurrency 1: one thread, so that a row's throughput is what Envoy's thread can do with what the row costs it.
	err = r.start("envoy", r.programs.Envoy, nil, "--config-path", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
	if err != nil {
		return err
	}
	url := fmt.Sprintf("http://%s:%d/ready", loopback, r.ports.envoyAdmin)
	return r.await("envoy", func() error { return wantOK(url) })
}

func (r *Rig) envoyConfig(c *credentials.Set) (object, error) {
	config, err := r.printedConfig()
	if err != nil {
		return nil, err
	}
	static, _ := config["static_resources"].(object)
	listeners, _ := static["listeners"].([]any)
	if len(listeners) == 0 {
		return nil, errors.New("policyctl envoy has printed no listener")
	}
	if err := r.replaceFilter(listeners[0], c); err != nil {
		return nil, err
	}
	if r.spec.Upstream == "" {
		static["listeners"] = append(listeners, upstreamListener(r.ports.upstream))
	}
	if r.spec.UpstreamRequests > 0 {
		if err := explainAnswers(listeners[0]); err != nil {
			return nil, err
		}
		return config, allowUpstream(static["clusters"], r.spec.UpstreamRequests)
	}
	return config, nil
}

// UpstreamStreams is how many streams Envoy opens on a connection to an upstream of UpstreamRequests. The upstream must
// permit as many from the start: Envoy does not wait for its settings.
const UpstreamStreams = 250

// allowUpstream sets limits and protocol of the upstream's cluster, which are the operator's: they are not those of the
// engine.
func allowUpstream(clusters any, requests int) error {
	all, _ := clusters.([]any)
	for _, c := range all {
		cluster, _ := c.(object)
		if name, _ := cluster["name"].(string); strings.HasPrefix(name, "upstream_") {
			cluster["circuit_breakers"] = object{"thresholds": []any{object{
				"max_connections": requests, "max_pending_requests": requests, "max_requests": requests,
			}}}
			cluster["typed_extension_protocol_options"] = object{optionsName: object{
				"@type": optionsURL, "explicit_http_config": object{"http2_protocol_options": object{"max_concurrent_streams": UpstreamStreams}},
			}}
			return nil
		}
	}
	return errors.New("policyctl envoy has printed no cluster of the upstream")
}

// explainAnswers has Envoy say in a header field why it answers itself.
func explainAnswers(listener any) error {
	managers := find(listener, managerURL)
	if len(managers) != 1 {
		return fmt.Errorf("policyctl envoy has printed %d connection managers, want 1", len(managers))
	}
	managers[0]["local_reply_config"] = object{"mappers": []any{object{
		"filter": object{"status_code_filter": object{"comparison": object{
			"op": "GE", "value": object{"default_value": 400, "runtime_key": "explained_answers"},
		}}},
		"headers_to_add": []any{object{"header": object{"key": burst.ReasonHeader, "value": burst.ReasonFormat}}},
	}}}
	return nil
}

// printedConfig runs policyctl.
func (r *Rig) printedConfig() (object, error) {
	kernel, err := writeConfig(r.dir, "envoy-kernel.yaml", r.spec.kernelConfig(r.ports.server, r.ports.admin, r.dir))
	if err != nil {
		return nil, err
	}
	all, _ := r.spec.routes()
	entries := make([]map[string]string, len(all))
	for i, route := range all {
		entries[i] = map[string]string{"route": route.name, "prefix": route.prefix}
	}
	text, err := json.Marshal(entries)
	if err != nil {
		return nil, fmt.Errorf("encode the routes: %w", err)
	}
	routes := filepath.Join(r.dir, "envoy-routes.yaml")
	if err := os.WriteFile(routes, text, 0o600); err != nil {
		return nil, fmt.Errorf("write the routes: %w", err)
	}
	upstream := r.spec.Upstream
	if upstream == "" {
		upstream = fmt.Sprintf("%s:%d", loopback, r.ports.upstream)
	}
	ctl := exec.Command(
		r.programs.ctl(), "envoy", "--kernel", kernel, "--routes", routes, "--upstream", upstream,
		"--listen", fmt.Sprintf("%s:%d", loopback, r.ports.listen), "--admin", fmt.Sprintf("%s:%d", loopback, r.ports.envoyAdmin),
	)
	var stderr bytes.Buffer
	ctl.Stderr = &stderr
	printed, err := ctl.Output()
	if err != nil {
		return nil, fmt.Errorf("policyctl envoy: %w\n%s", err, stderr.Bytes())
	}
	var config object
	if err := yaml.Unmarshal(printed, &config); err != nil {
		return nil, fmt.Errorf("read what policyctl envoy printed: %w", err)
	}
	return config, nil
}

// replaceFilter takes the engine's filter out of a listener, if Envoy is not to ask anybody, and puts Envoy's own in its place, if it is to use those.
func (r *Rig) replaceFilter(listener any, c *credentials.Set) error {
	if r.spec.Asked == NoOp || r.spec.Asked == Engine {
		return nil
	}
	managers := find(listener, managerURL)
	if len(managers) != 1 {
		return fmt.Errorf("policyctl envoy has printed %d connection managers, want 1", len(managers))
	}
	filters, _ := managers[0]["http_filters"].([]any)
	i := slices.IndexFunc(filters, func(f any) bool { return len(find(f, typePrefix+"http.ext_proc.v3.ExternalProcessor")) > 0 })
	if i < 0 {
		return errors.New("policyctl envoy has printed no ext_proc filter")
	}
	managers[0]["http_filters"] = slices.Concat(r.nativeFilters(c), filters[i+1:])
	removeKey(managers[0]["route_config"], "typed_per_filter_config")
	return nil
}

// nativeFilters are Envoy's own filters for apiKeyAuth, jwtValidation and rateLimit.
func (r *Rig) nativeFilters(c *credentials.Set) []any {
	if r.spec.Asked == Nothing {
		return nil
	}
	keys := make([]any, len(c.Keys))
	for i, key := range c.Keys {
		keys[i] = object{"key": key, "client": credentials.Identity(i)}
	}
	provider := object{
		"issuer": credentials.Issuer, "forward": true,
		"local_jwks":       object{"filename": filepath.Join(r.dir, credentials.KeySetFile)},
		"claim_to_headers": []any{object{"header_name": IdentityHeader, "claim_name": "sub"}},
	}
	if r.spec.Asked == NativeCached {
		provider["jwt_cache_config"] = object{"jwt_cache_size": 10 * len(c.Keys)}
	}
	whole := object{"default_value": object{"numerator": 100, "denominator": "HUNDRED"}}
	return []any{
		filter("envoy.filters.http.api_key_auth", "http.api_key_auth.v3.ApiKeyAuth", object{
			"credentials": keys, "key_sources": []any{object{"header": "x-api-key"}},
			"forwarding": object{"header": "x-api-client", "hide_credentials": true},
		}),
		filter("envoy.filters.http.jwt_authn", "http.jwt_authn.v3.JwtAuthentication", object{
			"providers": object{"loadtest": provider},
			"rules":     []any{object{"match": object{"prefix": "/"}, "requires": object{"provider_name": "loadtest"}}},
		}),
		filter("envoy.filters.http.local_ratelimit", "http.local_ratelimit.v3.LocalRateLimit", object{
			"stat_prefix":    "loadtest",
			"token_bucket":   object{"max_tokens": limit, "tokens_per_fill": limit, "fill_interval": "1s"},
			"filter_enabled": whole, "filter_enforced": whole,
		}),
	}
}

func filter(name, message string, config object) object {
	config["@type"] = typePrefix + message
	return object{"name": name, "typed_config": config}
}

const (
	// IdentityHeader is where the upstream is told whose request it is.
	IdentityHeader = "x-user-id"
	// EchoHeader is where the client is told what the upstream was told.
	EchoHeader = "x-identity"
)

// upstreamListener answers at once, and tells whose request it was. It stands for an upstream that costs next to nothing.
func upstreamListener(port int) object {
	answer := object{
		"match":                   object{"prefix": "/"},
		"direct_response":         object{"status": 200, "body": object{"inline_string": "ok\n"}},
		"response_headers_to_add": []any{object{"header": object{"key": EchoHeader, "value": "%REQ(" + IdentityHeader + ")%"}}},
	}
	manager := object{
		"@type": managerURL, "stat_prefix": "upstream", "generate_request_id": false,
		"route_config": object{"virtual_hosts": []any{object{"name": "upstream", "domains": []any{"*"}, "routes": []any{answer}}}},
		"http_filters": []any{object{"name": "envoy.filters.http.router", "typed_config": object{"@type": routerURL}}},
	}
	return object{
		"name":          "upstream",
		"address":       object{"socket_address": object{"address": loopback, "port_value": port}},
		"filter_chains": []any{object{"filters": []any{object{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}}}},
	}
}

// find returns the messages of a type anywhere below.
func find(in any, url string) []object {
	var found []object
	switch v := in.(type) {
	case object:
		if v["@type"] == url {
			found = append(found, v)
		}
		for _, child := range v {
			found = append(found, find(child, url)...)
		}
	case []any:
		for _, child := range v {
			found = append(found, find(child, url)...)
		}
	}
	return found
}

// removeKey removes a key anywhere below.
func removeKey(in any, key string) {
	switch v := in.(type) {
	case object:
		delete(v, key)
		for _, child := range v {
			removeKey(child, key)
		}
	case []any:
		for _, child := range v {
			removeKey(child, key)
		}
	}
}

// EnvoyCounts are the counters of Envoy's cluster of the engine that are not 0, by name without the cluster's.
func (r *Rig) EnvoyCounts() (map[string]float64, error) {
	status, text, err := process.Get(fmt.Sprintf("http://%s:%d/stats?usedonly&type=Counters&filter=^cluster.policy_engine.", loopback, r.ports.envoyAdmin))
	if err != nil {
		return nil, fmt.Errorf("ask Envoy for its counters: %w", err)
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("ask Envoy for its counters: %d %s", status, text)
	}
	counts := make(map[string]float64)
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "cluster.policy_engine."), ": ")
		if v, err := strconv.ParseFloat(value, 64); err == nil && v > 0 {
			counts[name] = v
		}
	}
	return counts, nil
}
