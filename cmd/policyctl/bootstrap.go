package main

import (
	"fmt"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/policy-engine/policy-engine/config"
)

const (
	engineCluster = "policy_engine"
	// metadataNamespace is where the engine's dynamic metadata is.
	metadataNamespace = "policy_engine"
)

// bootstrap is an Envoy configuration in the making.
type bootstrap struct {
	kernel   *config.Kernel
	flags    *envoyFlags
	engines  []endpoint
	listen   endpoint
	admin    *endpoint
	mappings []mapping
	duplex   map[string]bool // the names of routes in full duplex
	owned    ownedHeaders
	timeout  time.Duration // of a message to the engine
}

func newBootstrap(k *config.Kernel, e *envoyFlags) (*bootstrap, error) {
	if err := e.engineTLS.check(&k.Server.TLS); err != nil {
		return nil, err
	}
	if err := e.downstreamTLS.check(); err != nil {
		return nil, err
	}
	b := &bootstrap{kernel: k, flags: e, timeout: printedMessageTimeout(k, newCatalogue())}
	var err error
	if b.engines, err = engineEndpoints(&k.Server, e.engine); err != nil {
		return nil, err
	}
	if b.listen, err = parseEndpoint("--listen", e.listen, false); err != nil {
		return nil, err
	}
	if e.admin != "" {
		admin, err := parseEndpoint("--admin", e.admin, false)
		if err != nil {
			return nil, err
		}
		b.admin = &admin
	}
	if b.mappings, err = mappings(k, e); err != nil {
		return nil, err
	}
	if b.duplex, err = duplexRoutes(k, e.fullDuplex); err != nil {
		return nil, err
	}
	if b.owned, err = newCatalogue().ownedHeaders(k, e.owned); err != nil {
		return nil, err
	}
	return b, nil
}

// message makes Envoy's bootstrap, valid by its own rules.
func (b *bootstrap) message() (*bootstrapv3.Bootstrap, error) {
	layer, err := structpb.NewStruct(map[string]any{
		// Later releases went back to nghttp2. The cluster option of the same meaning logs a warning.
		"envoy.reloadable_features.http2_use_oghttp2": false,
	})
	if err != nil {
		return nil, err
	}
	out := &bootstrapv3.Bootstrap{
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{
			{Name: "static", LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: layer}},
		}},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{
			Listeners: []*listenerv3.Listener{b.listener()},
			Clusters:  append([]*clusterv3.Cluster{b.engineCluster()}, b.upstreamClusters()...),
		},
	}
	if b.admin != nil {
		out.Admin = &bootstrapv3.Admin{Address: b.admin.address()}
	}
	if err := out.ValidateAll(); err != nil {
		return nil, fmt.Errorf("make the Envoy configuration: %w", err)
	}
	return out, nil
}

func (e endpoint) address() *corev3.Address {
	if e.path != "" {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: e.path}}}
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: e.host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: e.port},
	}}}
}

func newCluster(name string, requests uint32, to ...endpoint) *clusterv3.Cluster {
	discovery := clusterv3.Cluster_STATIC
	var endpoints []*endpointv3.LbEndpoint
	for _, e := range to {
		if e.path == "" && !e.isIP() {
			discovery = clusterv3.Cluster_STRICT_DNS
		}
		endpoints = append(endpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: e.address()}}})
	}
	return &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: discovery},
		ConnectTimeout:       durationpb.New(time.Second),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: endpoints,
		}}},
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections:     wrapperspb.UInt32(requests),
			MaxPendingRequests: wrapperspb.UInt32(requests),
			MaxRequests:        wrapperspb.UInt32(requests),
		}}},
	}
}

func (b *bootstrap) engineCluster() *clusterv3.Cluster {
	limits := printedBurst(b.kernel)
	c := newCluster(engineCluster, limits.requests, b.engines...)
	// Envoy's clock runs on while its thread is busy with a burst, and with a connection that it gives up it fails all
	// requests that wait for it. Each of them has its message_timeout all the same.
	c.ConnectTimeout = durationpb.New(c.ConnectTimeout.AsDuration() + burstMargin)
	if len(b.engines) > 1 {
		c.HealthChecks = []*corev3.HealthCheck{engineHealth()}
	}
	c.TypedExtensionProtocolOptions = http2To(&corev3.Http2ProtocolOptions{
		MaxConcurrentStreams:     wrapperspb.UInt32(limits.streams),
		MaxOutboundControlFrames: wrapperspb.UInt32(limits.controlFrames),
		MaxOutboundFrames:        wrapperspb.UInt32(limits.frames),
		// A connection whose other end is gone fails all requests until Envoy finds out: after 4 s at most, which
		// is before requests that time out make room for others on it. The kernel takes a ping a second.
		ConnectionKeepalive: &corev3.KeepaliveSettings{
			Interval: durationpb.New(1500 * time.Millisecond), Timeout: durationpb.New(2500 * time.Millisecond),
		},
	})
	if b.kernel.Server.TLS.CertFile != "" {
		c.TransportSocket = &corev3.TransportSocket{
			Name:       "envoy.transport_sockets.tls",
			ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(b.flags.engineTLS.context())},
		}
	}
	return c
}

// engineHealth finds a kernel that is about to end, or can't answer, before requests do: well within policy_kernel.drain.delay. With all of them gone, Envoy asks them all the same, and the
// request is refused.
func engineHealth() *corev3.HealthCheck {
	interval := durationpb.New(250 * time.Millisecond)
	return &corev3.HealthCheck{
		Interval: interval, NoTrafficInterval: interval, Timeout: durationpb.New(time.Second),
		UnhealthyThreshold: wrapperspb.UInt32(2), HealthyThreshold: wrapperspb.UInt32(1),
		HealthChecker: &corev3.HealthCheck_GrpcHealthCheck_{GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{}},
	}
}

// http2To says that a cluster is spoken to in HTTP/2.
func http2To(options *corev3.Http2ProtocolOptions) map[string]*anypb.Any {
	return map[string]*anypb.Any{
		"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(&httpv3.HttpProtocolOptions{
			UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
				ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
					ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: options},
				},
			},
		}),
	}
}

func (t engineTLS) context() *tlsv3.UpstreamTlsContext {
	common := &tlsv3.CommonTlsContext{
		AlpnProtocols: []string{"h2"},
		TlsParams:     &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: fileSource(t.ca),
			MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
				SanType: tlsv3.SubjectAltNameMatcher_DNS,
				Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: t.serverName}},
			}},
		}},
	}
	if t.cert != "" {
		common.TlsCertificates = []*tlsv3.TlsCertificate{{CertificateChain: fileSource(t.cert), PrivateKey: fileSource(t.key)}}
	}
	return &tlsv3.UpstreamTlsContext{CommonTlsContext: common, Sni: t.serverName}
}

func fileSource(path string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
}

func (b *bootstrap) upstreamClusters() []*clusterv3.Cluster {
	var out []*clusterv3.Cluster
	seen := map[endpoint]bool{}
	for i := range b.mappings {
		if to := b.mappings[i].upstream; !seen[to] {
			seen[to] = true
			c := newCluster(clusterName(to), minCapacity, to)
			if b.flags.upstreamHTTP2 {
				c.TypedExtensionProtocolOptions = http2To(&corev3.Http2ProtocolOptions{})
			}
			out = append(out, c)
		}
	}
	return out
}

// accessLogs write one JSON object per request, with what the engine decided.
func (b *bootstrap) accessLogs() []*accesslogv3.AccessLog {
	if !b.flags.accessLog {
		return nil
	}
	fields := map[string]*structpb.Value{}
	for name, format := range map[string]string{
		"timestamp":        "%START_TIME%",
		"request_id":       "%REQ(X-REQUEST-ID)%",
		"client":           "%DOWNSTREAM_REMOTE_ADDRESS%",
		"method":           "%REQ(:METHOD)%",
		"path":             "%PATH(NQ)%", // A query may hold a credential.
		"protocol":         "%PROTOCOL%",
		"status":           "%RESPONSE_CODE%",
		"details":          "%RESPONSE_CODE_DETAILS%",
		"flags":            "%RESPONSE_FLAGS%",
		"bytes_received":   "%BYTES_RECEIVED%",
		"bytes_sent":       "%BYTES_SENT%",
		"duration_ms":      "%DURATION%",
		"route":            "%ROUTE_NAME%",
		"upstream_cluster": "%UPSTREAM_CLUSTER%",
		"policy_engine":    "%DYNAMIC_METADATA(" + metadataNamespace + ")%",
	} {
		fields[name] = structpb.NewStringValue(format)
	}
	return []*accesslogv3.AccessLog{{
		Name: "envoy.access_loggers.stdout",
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: packed(&streamv3.StdoutAccessLog{
			AccessLogFormat: &streamv3.StdoutAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
				Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: &structpb.Struct{Fields: fields}},
			}},
		})},
	}}
}

// validated is a message of Envoy's, which knows its own rules.
type validated interface {
	proto.Message
	ValidateAll() error
}

// packed puts a message into an Any. ValidateAll does not look into those, so each is checked here; one that is wrong is a mistake of this program.
func packed(m validated) *anypb.Any {
	if err := m.ValidateAll(); err != nil {
		panic(fmt.Sprintf("policyctl: invalid %T: %v", m, err))
	}
	a, err := anypb.New(m)
	if err != nil {
		panic(fmt.Sprintf("policyctl: pack %T: %v", m, err))
	}
	return a
}
