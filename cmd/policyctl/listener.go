package main

import (
	"slices"
	"strings"
	"time"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/policy-engine/policy-engine/config"
)

const (
	extProcFilter = "envoy.filters.http.ext_proc"
	// routeMetadata is the gRPC metadata that names the route to the kernel.
	routeMetadata = "x-policy-route"
)

func (b *bootstrap) listener() *listenerv3.Listener {
	return &listenerv3.Listener{
		Name:                          "ingress",
		Address:                       b.listen.address(),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(1 << 20),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(b.connectionManager())},
		}}, TransportSocket: b.flags.downstreamTLS.socket()}},
	}
}

// connectionManager makes one spelling of each request before the engine and the upstream see it, and refuses those that have several.
func (b *bootstrap) connectionManager() *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix:                   "ingress",
		CodecType:                    hcmv3.HttpConnectionManager_AUTO,
		UseRemoteAddress:             wrapperspb.Bool(true),
		XffNumTrustedHops:            uint32(b.kernel.ClientAddress.TrustedHops),
		NormalizePath:                wrapperspb.Bool(true),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_REJECT_REQUEST,
		RequestHeadersTimeout:        durationpb.New(10 * time.Second),
		RequestTimeout:               durationpb.New(5 * time.Minute),
		StreamIdleTimeout:            durationpb.New(5 * time.Minute),
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout:                  durationpb.New(time.Hour),
			HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_REJECT_REQUEST,
		},
		// The limits that Envoy's documentation gives for the edge.
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
			MaxConcurrentStreams:        wrapperspb.UInt32(100),
			InitialStreamWindowSize:     wrapperspb.UInt32(64 << 10),
			InitialConnectionWindowSize: wrapperspb.UInt32(1 << 20),
		},
		// A client that asks before it sends (Expect: 100-continue) is answered by a policy or by the upstream. Otherwise Envoy bids it send before the engine
		// has seen the request. Where policies want the whole body, it is asked for by nobody: clients send it after a wait of their own (RFC 9110 section 10.1.1).
		Proxy_100Continue: true,
		UpgradeConfigs:    []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		AccessLog:         b.accessLogs(),
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name: "ingress", VirtualHosts: []*routev3.VirtualHost{{Name: "ingress", Domains: []string{"*"}, Routes: b.routes()}},
		}},
		HttpFilters: []*hcmv3.HttpFilter{
			{Name: extProcFilter, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(b.extProc())}},
			{Name: headerMutationFilter, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(b.owned.trailerFilter())}},
			{Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(&routerv3.Router{})}},
		},
	}
}

// extProc asks for request headers only: a route asks for more in its override.
func (b *bootstrap) extProc() *extprocv3.ExternalProcessor {
	return &extprocv3.ExternalProcessor{
		GrpcService: &corev3.GrpcService{
			TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: engineCluster}},
		},
		FailureModeAllow:  false,
		MessageTimeout:    durationpb.New(b.timeout),
		AllowModeOverride: true,
		ProcessingMode:    processingMode(false, false),
		// Without it, Envoy drops a forbidden change and lets the request pass without it. What is forbidden is what Envoy forbids by default:
		// host, :authority, :scheme and x-envoy-….
		MutationRules: &mutationv3.HeaderMutationRules{DisallowIsError: wrapperspb.Bool(true)},
		MetadataOptions: &extprocv3.MetadataOptions{
			ReceivingNamespaces: &extprocv3.MetadataOptions_MetadataNamespaces{Untyped: []string{metadataNamespace}},
		},
	}
}

func processingMode(response, wholeRequest bool) *extprocv3.ProcessingMode {
	mode := &extprocv3.ProcessingMode{
		RequestHeaderMode:   extprocv3.ProcessingMode_SEND,
		ResponseHeaderMode:  extprocv3.ProcessingMode_SKIP,
		RequestBodyMode:     extprocv3.ProcessingMode_NONE,
		ResponseBodyMode:    extprocv3.ProcessingMode_NONE,
		RequestTrailerMode:  extprocv3.ProcessingMode_SKIP,
		ResponseTrailerMode: extprocv3.ProcessingMode_SKIP,
	}
	if response {
		mode.ResponseHeaderMode = extprocv3.ProcessingMode_SEND
	}
	if wholeRequest {
		mode.RequestBodyMode = extprocv3.ProcessingMode_BUFFERED
	}
	return mode
}

// routes makes one Envoy route per mapping, each with its name for the kernel, and one for all other requests. The kernel refuses those, and knows by the name that no route is
// missing in its configuration; should it let them pass (unknown_route), Envoy answers 404.
func (b *bootstrap) routes() []*routev3.Route {
	known := newCatalogue()
	out := make([]*routev3.Route, 0, len(b.mappings))
	for i := range b.mappings {
		m := &b.mappings[i]
		if m.route == nil {
			out = append(out, b.bypass(m))
			continue
		}
		overrides := &extprocv3.ExtProcOverrides{
			FailureModeAllow: wrapperspb.Bool(false),
			GrpcInitialMetadata: []*corev3.HeaderValue{{
				Key: routeMetadata,
				// Envoy takes the value for a format string (source/common/grpc/async_client_impl.cc).
				Value: strings.ReplaceAll(m.route.Name, "%", "%%"),
			}},
		}
		// It takes the place of the filter's mode as a whole.
		switch response, whole := len(m.route.Response.Chain) > 0, known.wantsWholeRequest(m.route); {
		case b.duplex[m.route.Name]:
			overrides.ProcessingMode = known.duplexMode(m.route)
		case response || whole:
			overrides.ProcessingMode = processingMode(response, whole)
		}
		out = append(out, &routev3.Route{
			Name:   m.route.Name,
			Match:  routeMatch(m.prefix),
			Action: routeAction(m.upstream),
			TypedPerFilterConfig: map[string]*anypb.Any{
				extProcFilter: packed(&extprocv3.ExtProcPerRoute{Override: &extprocv3.ExtProcPerRoute_Overrides{Overrides: overrides}}),
			},
		})
	}
	if !slices.ContainsFunc(out, func(r *routev3.Route) bool { return r.Match.GetPrefix() == "/" }) {
		out = append(out, notFound())
	}
	return out
}

func routeAction(upstream endpoint) *routev3.Route_Route {
	return &routev3.Route_Route{Route: &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: clusterName(upstream)},
		// Answers may go on for long (server-sent events); stream_idle_timeout ends those on which nothing happens.
		Timeout: durationpb.New(0),
	}}
}

// bypass makes a route that the engine does not see.
func (b *bootstrap) bypass(m *mapping) *routev3.Route {
	return &routev3.Route{
		Name: "bypass " + m.prefix, Match: routeMatch(m.prefix), Action: routeAction(m.upstream),
		TypedPerFilterConfig: map[string]*anypb.Any{
			extProcFilter:        packed(&extprocv3.ExtProcPerRoute{Override: &extprocv3.ExtProcPerRoute_Disabled{Disabled: true}}),
			headerMutationFilter: packed(b.owned.bypass()),
		},
	}
}

// notFound takes what no other route matches.
func notFound() *routev3.Route {
	return &routev3.Route{
		Name:   config.RouteNotFound,
		Match:  routeMatch("/"),
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 404}},
		TypedPerFilterConfig: map[string]*anypb.Any{
			extProcFilter: packed(&extprocv3.ExtProcPerRoute{Override: &extprocv3.ExtProcPerRoute_Overrides{Overrides: &extprocv3.ExtProcOverrides{
				FailureModeAllow:    wrapperspb.Bool(false),
				GrpcInitialMetadata: []*corev3.HeaderValue{{Key: routeMetadata, Value: config.RouteNotFound}},
			}}}),
		},
	}
}

// routeMatch matches whole segments: /orders is not the beginning of /orders-of-others.
func routeMatch(prefix string) *routev3.RouteMatch {
	if strings.HasSuffix(prefix, "/") {
		return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: prefix}}
	}
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: prefix}}
}
