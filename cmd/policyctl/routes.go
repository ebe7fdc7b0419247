package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/policy-engine/policy-engine/config"
)

// mapping is an Envoy route: what requests are on which route of the kernel, nil for those that pass by it, and where they go.
type mapping struct {
	route    *config.Route
	prefix   string
	upstream endpoint
}

// maxRoutesFile is in bytes.
const maxRoutesFile = 64 << 20

// mappings returns the Envoy routes in the order in which Envoy tries them: the longest prefix first.
func mappings(k *config.Kernel, e *envoyFlags) ([]mapping, error) {
	routes := make(map[string]*config.Route, len(k.Routes))
	for i := range k.Routes {
		routes[k.Routes[i].Name] = &k.Routes[i]
	}
	upstream, err := parseEndpoint("--upstream", e.upstream, false)
	if err != nil {
		return nil, err
	}
	var out []mapping
	var errs []error
	add := func(origin, name, prefix string, upstream endpoint) {
		route := routes[name]
		if route == nil {
			errs = append(errs, badUsage("%s: %q is not a route of %s; legal are %s", origin, name, k.File, someNames(k)))
		}
		if err := checkPrefix(prefix); err != nil {
			errs = append(errs, badUsage("%s: %v", origin, err))
		}
		out = append(out, mapping{route, prefix, upstream})
	}
	for _, text := range e.routes {
		// Names may have a '=', prefixes too: the first "=/" is the border.
		name, prefix, found := strings.Cut(text, "=/")
		if !found {
			errs = append(errs, badUsage("--route %q is not a route; legal is NAME=/PREFIX", text))
			continue
		}
		add("--route", name, "/"+prefix, upstream)
	}
	if e.routesFile != "" {
		if err := readRoutes(e.routesFile, upstream, add); err != nil {
			errs = append(errs, err)
		}
	}
	for _, prefix := range e.bypass {
		if err := checkPrefix(prefix); err != nil {
			errs = append(errs, badUsage("--bypass: %v", err))
		}
		out = append(out, mapping{nil, prefix, upstream})
	}
	if len(e.routes) == 0 && e.routesFile == "" {
		for i := range k.Routes {
			name := k.Routes[i].Name
			add(fmt.Sprintf("route %q has no --route, and would take the paths below /%s", name, name), name, "/"+name, upstream)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return inOrder(out)
}

// inOrder puts longer prefixes first, and refuses the same one twice: the second could never match.
func inOrder(all []mapping) ([]mapping, error) {
	if len(all) == 0 {
		return nil, badUsage("there are no routes; legal is a kernel configuration with route_policies")
	}
	slices.SortStableFunc(all, func(a, b mapping) int {
		return cmp.Or(cmp.Compare(len(b.prefix), len(a.prefix)), cmp.Compare(a.prefix, b.prefix))
	})
	for i := 1; i < len(all); i++ {
		if all[i].prefix == all[i-1].prefix {
			return nil, badUsage("the prefix %q is there twice, for %s and %s", all[i].prefix, all[i-1].what(), all[i].what())
		}
	}
	return all, nil
}

// what names the mapping.
func (m *mapping) what() string {
	if m.route == nil {
		return "--bypass"
	}
	return fmt.Sprintf("route %q", m.route.Name)
}

// checkPrefix refuses what no path begins with, once Envoy has normalized it.
func checkPrefix(prefix string) error {
	const legal = "legal is a path such as /orders, as it is after normalization"
	if prefix == "" || prefix[0] != '/' {
		return fmt.Errorf("%q is not a prefix; %s", prefix, legal)
	}
	for _, segment := range strings.Split(prefix[1:], "/") {
		if segment == "." || segment == ".." {
			return fmt.Errorf("%q is not a prefix; %s", prefix, legal)
		}
	}
	// pchar of RFC 3986 section 3.3 without percent-encoding, whose spelling is the client's choice.
	for _, c := range []byte(prefix) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("/-._~!$&'()*+,;=:@", c) >= 0) {
			return fmt.Errorf("%q is not a prefix; %s", prefix, legal)
		}
	}
	if strings.Contains(prefix, "//") {
		return fmt.Errorf("%q is not a prefix: Envoy merges slashes; %s", prefix, legal)
	}
	return nil
}

func someNames(k *config.Kernel) string {
	const most = 20
	var names []string
	for i := range k.Routes {
		names = append(names, k.Routes[i].Name)
	}
	if len(names) > most {
		names = append(names[:most], "…")
	}
	return strings.Join(names, ", ")
}

// readRoutes reads a file of routes.
func readRoutes(path string, upstream endpoint, add func(origin, name, prefix string, upstream endpoint)) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read routes: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxRoutesFile+1))
	if err != nil {
		return fmt.Errorf("read routes: %w", err)
	}
	if len(data) > maxRoutesFile {
		return badUsage("%s: the file has more than %d MiB", path, maxRoutesFile>>20)
	}
	var entries []struct {
		Route    string `yaml:"route"`
		Prefix   string `yaml:"prefix"`
		Upstream string `yaml:"upstream"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&entries); err != nil {
		return badUsage("%s: %v", path, err)
	}
	if err := dec.Decode(&entries); !errors.Is(err, io.EOF) {
		return badUsage("%s: more than one YAML document", path)
	}
	var errs []error
	for i, entry := range entries {
		origin, to := fmt.Sprintf("%s: [%d]", path, i), upstream
		if entry.Upstream != "" {
			if to, err = parseEndpoint(origin+": upstream", entry.Upstream, false); err != nil {
				errs = append(errs, err)
			}
		}
		add(origin, entry.Route, entry.Prefix, to)
	}
	return errors.Join(errs...)
}
