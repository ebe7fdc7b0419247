package main

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

// downstreamTLS is what Envoy needs to speak HTTPS with clients.
type downstreamTLS struct{ cert, key string }

func (t downstreamTLS) check() error {
	if (t.cert == "") != (t.key == "") {
		return badUsage("--tls-cert and --tls-key are legal together only")
	}
	return nil
}

// socket is nil without TLS.
func (t downstreamTLS) socket() *corev3.TransportSocket {
	if t.cert == "" {
		return nil
	}
	return &corev3.TransportSocket{
		Name: "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(&tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
			AlpnProtocols:   []string{"h2", "http/1.1"},
			TlsParams:       &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
			TlsCertificates: []*tlsv3.TlsCertificate{{CertificateChain: fileSource(t.cert), PrivateKey: fileSource(t.key)}},
		}})},
	}
}
