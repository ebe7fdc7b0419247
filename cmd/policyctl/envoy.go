package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/policy-engine/policy-engine/config"
)

// envoyFlags are what the kernel's configuration does not say of Envoy.
type envoyFlags struct {
	kernel, listen, admin, engine, upstream string
	routes                                  list
	fullDuplex                              list
	routesFile                              string
	accessLog                               bool
	engineTLS                               engineTLS
	downstreamTLS                           downstreamTLS
	upstreamHTTP2                           bool
	// owned are headers that policies own which do not come with the engine; bypass are prefixes that pass by the engine.
	owned, bypass list
}

// engineTLS is what Envoy needs when the kernel has TLS.
type engineTLS struct {
	ca, serverName, cert, key string
}

func (p *program) envoyFlags(e *envoyFlags) *flag.FlagSet {
	f := p.flags("policyctl envoy --kernel FILE [FLAGS]",
		"Prints the bootstrap configuration of an Envoy that asks the engine on every route. Requests that match no route reach the engine as\n"+
			"policy-engine/not-found, and are refused as unknown_route says; they never reach an upstream.\n"+
			"Without --route and --routes, route NAME of the kernel takes the paths /NAME and below.")
	f.StringVar(&e.kernel, "kernel", "", "the kernel's configuration `file`; required")
	f.StringVar(&e.kernel, "config", "", "another name of --kernel")
	f.StringVar(&e.listen, "listen", "127.0.0.1:10000", "where Envoy listens, an `address`")
	f.StringVar(&e.admin, "admin", "", "where Envoy's admin pages are, an `address` such as 127.0.0.1:9901: who reaches them can change and end Envoy (default: none)")
	f.StringVar(&e.engine, "engine", "", "where the kernel is, an `address` or the path of a Unix socket (default: from the kernel's configuration); several kernels with the same\n"+
		"configuration, with commas between them, share the requests, and Envoy leaves out those that say they are not ready")
	f.StringVar(&e.upstream, "upstream", "127.0.0.1:8080", "where requests go that the engine lets pass, an `address`")
	f.Var(&e.routes, "route", "`NAME=/PREFIX`: requests below the prefix are on that route of the kernel; may be repeated")
	f.StringVar(&e.routesFile, "routes", "", "a YAML `file` with the routes: a list of {route: NAME, prefix: /PREFIX, upstream: ADDRESS}")
	f.Var(&e.fullDuplex, "full-duplex", "exchange the bodies of that route of the kernel, a `NAME`, in Envoy's mode FULL_DUPLEX_STREAMED, or * for all whose policies may want bodies; may be repeated\n"+
		"(default: in the mode that the engine asks for with each request)")
	f.Var(&e.owned, "owned-header", "a header, a `NAME`, that a policy of your own owns: Envoy removes it where the engine does not see it; may be repeated\n"+
		"(those of the policies that come with the engine are known)")
	f.Var(&e.bypass, "bypass", "requests below that `/PREFIX` go to --upstream without the engine and any policy; Envoy removes owned headers from them; may be repeated")
	f.BoolVar(&e.accessLog, "access-log", false, "write a JSON access log to the standard output")
	f.StringVar(&e.downstreamTLS.cert, "tls-cert", "", "the `file` with Envoy's certificate for clients, who then speak HTTPS, with HTTP/1.1 or HTTP/2")
	f.StringVar(&e.downstreamTLS.key, "tls-key", "", "the `file` with the key of --tls-cert")
	f.BoolVar(&e.upstreamHTTP2, "upstream-http2", false, "speak HTTP/2 with the upstreams, as gRPC needs (default: HTTP/1.1)")
	f.StringVar(&e.engineTLS.ca, "engine-ca", "", "the `file` with the authority of the kernel's certificate; required when the kernel has TLS")
	f.StringVar(&e.engineTLS.serverName, "engine-name", "", "the DNS `name` in the kernel's certificate; required when the kernel has TLS")
	f.StringVar(&e.engineTLS.cert, "engine-cert", "", "the `file` with Envoy's client certificate, for mutual TLS")
	f.StringVar(&e.engineTLS.key, "engine-key", "", "the `file` with the key of Envoy's client certificate")
	return f
}

func (p *program) envoy(args []string) error {
	var e envoyFlags
	if err := parse(p.envoyFlags(&e), args); err != nil {
		return err
	}
	if e.kernel == "" {
		return badUsage("--kernel is missing; it is required")
	}
	kernel, err := config.LoadKernel(e.kernel)
	if err != nil {
		return asMistakes(err)
	}
	b, err := newBootstrap(kernel, &e)
	if err != nil {
		return err
	}
	text, err := b.yaml()
	if err != nil {
		return err
	}
	if len(b.owned.unknown) > 0 && len(e.owned) == 0 {
		fmt.Fprintf(p.stdout, "# It is not known which headers these policies own: %s.\n# --owned-header NAME has Envoy remove such a header from trailers.\n", strings.Join(b.owned.unknown, ", "))
	}
	_, err = p.stdout.Write(text)
	return err
}

// asMistakes makes mistakes of what a file has wrong. Other errors stay as they are.
func asMistakes(err error) error {
	var errs config.Errors
	if !errors.As(err, &errs) {
		return err
	}
	return mistakes{errs.Error()}
}

// endpoint is a TCP address or the path of a Unix socket.
type endpoint struct {
	host string
	port uint32
	path string
}

func parseEndpoint(flagName, text string, socketToo bool) (endpoint, error) {
	legal := "legal is HOST:PORT"
	if socketToo {
		legal += " or the path of a Unix socket"
		if strings.HasPrefix(text, "/") {
			return endpoint{path: text}, nil
		}
	}
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return endpoint{}, badUsage("%s %q is not an address; %s", flagName, text, legal)
	}
	host := strings.TrimSuffix(strings.TrimPrefix(text[:i], "["), "]")
	port, err := strconv.ParseUint(text[i+1:], 10, 16)
	_, ipErr := netip.ParseAddr(host)
	if err != nil || port == 0 || host == "" || ipErr != nil && strings.ContainsAny(host, ":/ []") {
		return endpoint{}, badUsage("%s %q is not an address; %s", flagName, text, legal)
	}
	return endpoint{host: host, port: uint32(port)}, nil
}

// isIP tells addresses from names, which have to be resolved.
func (e endpoint) isIP() bool {
	_, err := netip.ParseAddr(e.host)
	return err == nil
}

// engineEndpoints are where Envoy reaches the kernels: a wildcard is not an address to connect to.
func engineEndpoints(s *config.Server, flag string) ([]endpoint, error) {
	if flag != "" {
		var all []endpoint
		for _, text := range strings.Split(flag, ",") {
			e, err := parseEndpoint("--engine", text, true)
			if err != nil {
				return nil, err
			}
			if slices.Contains(all, e) {
				return nil, badUsage("--engine: %q is there twice; legal is a kernel once", text)
			}
			all = append(all, e)
		}
		return all, nil
	}
	if s.SocketPath != "" {
		return []endpoint{{path: s.SocketPath}}, nil
	}
	host := s.Address
	switch host {
	case "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return []endpoint{{host: host, port: uint32(s.Port)}}, nil
}

func (t engineTLS) check(kernel *config.TLS) error {
	on := kernel.CertFile != ""
	switch {
	case !on && t != engineTLS{}:
		return badUsage("--engine-ca, --engine-name, --engine-cert and --engine-key are for a kernel with TLS; its configuration has none")
	case on && (t.ca == "" || t.serverName == ""):
		return badUsage("the kernel has TLS; --engine-ca and --engine-name are required")
	case (t.cert == "") != (t.key == ""):
		return badUsage("--engine-cert and --engine-key are legal together only")
	case kernel.ClientCAFile != "" && t.cert == "":
		return badUsage("the kernel wants client certificates; --engine-cert and --engine-key are required")
	}
	return nil
}

func clusterName(e endpoint) string { return fmt.Sprintf("upstream_%s_%d", e.host, e.port) }
