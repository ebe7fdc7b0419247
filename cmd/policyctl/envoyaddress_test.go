package main

import (
	"strings"
	"testing"
)

// The kernel's and Envoy's idea of the client's address are compared. What a policy decides by is a mistake where they
// differ, and what may only be reported is a note.
func TestValidateComparesClientAddresses(t *testing.T) {
	const e, k, remote = "envoy.yaml", "kernel.yaml", "use_remote_address: true"
	const manager = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config"
	const onlyIfInFront = "use_remote_address is not true: the client's address is what the peer of Envoy sends in x-forwarded-for"
	const shared, chosen = "all clients behind a proxy have the address of that proxy", "the client's address is what the client sends"
	envoy := func(settings ...string) edit {
		return edit{e, remote, strings.Join(settings, "\n                ")}
	}
	hops := func(n string) edit {
		return edit{k, "policy_kernel:\n", "policy_kernel:\n  client_address: {trusted_hops: " + n + "}\n"}
	}
	attribute := edit{e, "allow_mode_override: true", "allow_mode_override: true\n                      request_attributes: [source.address]"}
	extension := func(settings string) string {
		return "original_ip_detection_extensions: [{name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.http.original_ip_detection." + settings + "}}]"
	}
	for name, c := range map[string]struct {
		edits []edit
		// place and mistake are of the mistake, if there is one; note is of a note.
		place, mistake, note string
	}{
		"no hops":                         {nil, "", "", ""},
		"one hop":                         {[]edit{envoy(remote, "xff_num_trusted_hops: 1"), hops("1")}, "", "", ""},
		"a hop that the kernel lacks":     {[]edit{envoy(remote, "xff_num_trusted_hops: 1")}, manager + ".xff_num_trusted_hops", "Envoy trusts 1 hops of x-forwarded-for and the kernel 0 (policy_kernel.client_address.trusted_hops): " + shared, ""},
		"a hop that Envoy lacks":          {[]edit{hops("1")}, manager, "Envoy trusts 0 hops of x-forwarded-for and the kernel 1 (policy_kernel.client_address.trusted_hops): " + chosen, ""},
		"a hop too many":                  {[]edit{envoy(remote, "xffNumTrustedHops: 1"), hops("2")}, manager + ".xffNumTrustedHops", chosen, ""},
		"not a number":                    {[]edit{envoy(remote, "xff_num_trusted_hops: many")}, manager + ".xff_num_trusted_hops", "the kernel does not know how Envoy finds", ""},
		"nothing appended":                {[]edit{envoy(remote, "skip_xff_append: true")}, manager, "the address of Envoy's peer is not in x-forwarded-for (skip_xff_append): " + chosen, ""},
		"nothing appended, one hop":       {[]edit{envoy(remote, "skip_xff_append: true", "xff_num_trusted_hops: 1")}, "", "", ""},
		"nothing appended, one hop each":  {[]edit{envoy(remote, "skip_xff_append: true", "xff_num_trusted_hops: 1"), hops("1")}, manager + ".xff_num_trusted_hops", chosen, ""},
		"behind a proxy":                  {[]edit{envoy("use_remote_address: false")}, "", "", onlyIfInFront},
		"behind a proxy by default":       {[]edit{envoy("server_name: x")}, "", "", onlyIfInFront},
		"behind two proxies":              {[]edit{envoy("xff_num_trusted_hops: 1"), hops("1")}, "", "", onlyIfInFront},
		"behind two proxies, one unknown": {[]edit{envoy("xff_num_trusted_hops: 1")}, manager + ".xff_num_trusted_hops", shared, ""},
		"xff extension":                   {[]edit{envoy(extension("xff.v3.XffConfig, xff_num_trusted_hops: 2")), hops("2")}, "", "", ""},
		"xff extension that differs":      {[]edit{envoy(extension("xff.v3.XffConfig, xff_num_trusted_hops: 2"))}, manager + ".original_ip_detection_extensions[0].typed_config.xff_num_trusted_hops", shared, ""},
		"xff extension that appends":      {[]edit{envoy(extension("xff.v3.XffConfig, skip_xff_append: false"))}, manager + ".original_ip_detection_extensions[0].typed_config", shared, ""},
		"xff extension, appended":         {[]edit{envoy(extension("xff.v3.XffConfig, skip_xff_append: false")), hops("1")}, "", "", ""},
		"trusted ranges":                  {[]edit{envoy(extension("xff.v3.XffConfig, xff_trusted_cidrs: {cidrs: []}"))}, manager + ".original_ip_detection_extensions", "the kernel does not know how Envoy finds", ""},
		"header of its own":               {[]edit{envoy(extension("custom_header.v3.CustomHeaderConfig, header_name: x-client"))}, manager + ".original_ip_detection_extensions", "the kernel does not know how Envoy finds", ""},
		"Unix socket":                     {[]edit{{e, "address:\n        socket_address:\n          address: 127.0.0.1\n          port_value: 10000", "address: {pipe: {path: /run/envoy.sock}}"}}, manager, "Envoy appends nothing to x-forwarded-for on a listener that is not on an IP address: " + chosen, ""},

		"attribute: a hop that the kernel lacks": {[]edit{envoy(remote, "xff_num_trusted_hops: 1"), attribute}, "", "", ""},
		"attribute: nothing appended":            {[]edit{envoy(remote, "skip_xff_append: true"), attribute}, "", "", ""},
		"attribute: header of its own":           {[]edit{envoy(extension("custom_header.v3.CustomHeaderConfig, header_name: x-client")), attribute}, "", "", ""},
		"attribute: behind a proxy":              {[]edit{envoy("use_remote_address: false"), attribute}, "", "", onlyIfInFront},
	} {
		t.Run(name, func(t *testing.T) {
			decides := validateEdited(t, append(c.edits, edit{k, "key: identity", "key: [identity, {all: [client_ip, route]}]"}))
			// Without a policy that decides by the address, it is a note: ourPolicy may use it.
			reports := validateEdited(t, c.edits)
			if reports.status != exitOK || !strings.Contains(reports.stdout, c.mistake) || !strings.Contains(reports.stdout, c.note) {
				t.Errorf("without a limit by address: %+v", reports)
			}
			if c.mistake == "" {
				if decides.status != exitOK || !strings.Contains(decides.stdout, c.note) || strings.Contains(decides.stdout, "note") != (c.note != "") {
					t.Errorf("got %+v", decides)
				}
				return
			}
			if decides.status != exitUsage || !strings.Contains(decides.stderr, ": "+c.place+": ") || !strings.Contains(decides.stderr, c.mistake) || strings.Count(decides.stderr, "\n") != 1 {
				t.Errorf("got %+v, want %s: %s", decides, c.place, c.mistake)
			}
		})
	}
}

// tokenQuota decides by the address as rateLimit does.
func TestValidateComparesClientAddressesOfQuotas(t *testing.T) {
	quota := edit{"kernel.yaml", "{policy: rateLimit, params: {requests: 5, per: 10s, key: identity}}", "{policy: tokenQuota, params: {tokens: 5, per: 10s, estimate: 1, key: client_ip}}"}
	skip := edit{"envoy.yaml", "use_remote_address: true", "use_remote_address: true\n                skip_xff_append: true"}
	if r := validateEdited(t, []edit{quota, skip}); r.status != exitUsage || !strings.Contains(r.stderr, "(skip_xff_append)") {
		t.Errorf("got %+v", r)
	}
}

// A configuration whose policies have no use for the address gets no remarks on it.
func TestValidateIsSilentOnUnusedAddresses(t *testing.T) {
	const ours = "\n          - {policy: ourPolicy, params: {anything: true}}"
	edits := []edit{
		{"envoy.yaml", "use_remote_address: true", "use_remote_address: false"},
		{"kernel.yaml", ours, ""},
		{"kernel.yaml", "\n          - {policy: ourPolicy}", ""},
	}
	if r := validateEdited(t, edits); r.status != exitOK || strings.Contains(r.stdout, "note") {
		t.Errorf("got %+v", r)
	}
	audit := edit{"kernel.yaml", "- {policy: securityHeaders}", "- {policy: auditLog}\n          - {policy: securityHeaders}"}
	if r := validateEdited(t, append(edits, audit)); r.status != exitOK || !strings.Contains(r.stdout, "note") {
		t.Errorf("with auditLog: %+v", r)
	}
}
