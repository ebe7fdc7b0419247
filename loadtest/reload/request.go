package reload

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/loadtest/rig"
)

// badEvery: of so many requests, one has a token that the issuer has not signed.
const badEvery = 20

// bad reports whether the request of that number has a bad credential.
func bad(n int) bool { return n%badEvery == badEvery-1 }

// scatter is prime to any number of routes that one would take: requests one after the other go to routes far from each other.
const scatter = 7919

// route is where the request of that number goes.
func route(n, routes int) int { return n * scatter % routes }

// message is the first and only message that Envoy sends for a request without a body, with gRPC's prefix; bench/recorded has what Envoy sent.
func message(client int, key, token string) ([]byte, error) {
	var headers []*corev3.HeaderValue
	for _, h := range [][2]string{
		{":authority", "api.example"},
		{":path", rig.Path("/reload", client) + "/items?page=0&sort=created"},
		{":method", http.MethodGet},
		{":scheme", "http"},
		{"x-api-key", key},
		{"authorization", "Bearer " + token},
		{"user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36"},
		{"accept", "application/json, text/plain, */*"},
		{"accept-language", "en-GB,en;q=0.9,de;q=0.8"},
		{"accept-encoding", "gzip, deflate, br, zstd"},
		{"referer", "https://app.example.com/orders"},
		{"origin", "https://app.example.com"},
		{"sec-fetch-dest", "empty"},
		{"sec-fetch-mode", "cors"},
		{"sec-fetch-site", "same-site"},
		{"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		{"x-forwarded-for", "192.0.2.2"},
		{"x-forwarded-proto", "http"},
		{"x-envoy-external-address", "127.0.0.1"},
		{"x-request-id", "701b675c-bd77-4601-a01e-052bbaeae0f8"},
	} {
		headers = append(headers, &corev3.HeaderValue{Key: h[0], RawValue: []byte(h[1])})
	}
	b, err := proto.Marshal(&extprocv3.ProcessingRequest{
		Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{
			Headers: &corev3.HeaderMap{Headers: headers}, EndOfStream: true,
		}},
		MetadataContext: &corev3.Metadata{}, ProtocolConfig: &extprocv3.ProtocolConfiguration{},
	})
	if err != nil {
		return nil, fmt.Errorf("encode a request: %w", err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...), nil
}

// messages are those of all clients, good and bad.
func messages(c *credentials.Set) (good, forged [][]byte, err error) {
	token, err := c.Forged()
	if err != nil {
		return nil, nil, err
	}
	good, forged = make([][]byte, len(c.Keys)), make([][]byte, len(c.Keys))
	for i, key := range c.Keys {
		if good[i], err = message(i, key, c.Tokens[i]); err != nil {
			return nil, nil, err
		}
		if forged[i], err = message(i, key, token); err != nil {
			return nil, nil, err
		}
	}
	return good, forged, nil
}

// metadata writes the header block of a stream as Envoy sends it, without a reference to the dynamic table.
type metadata struct {
	buf    bytes.Buffer
	encode *hpack.Encoder
}

func newMetadata() *metadata {
	m := &metadata{}
	m.encode = hpack.NewEncoder(&m.buf)
	m.encode.SetMaxDynamicTableSize(0)
	return m
}

// block is lent until the next call.
func (m *metadata) block(route string) ([]byte, error) {
	m.buf.Reset()
	for _, f := range [][2]string{
		{":method", http.MethodPost},
		{":path", "/envoy.service.ext_proc.v3.ExternalProcessor/Process"},
		{":authority", "policy_engine"},
		{":scheme", "http"},
		{"te", "trailers"},
		{"content-type", "application/grpc"},
		{"x-policy-route", route},
		{"x-envoy-internal", "true"},
		{"x-forwarded-for", "192.0.2.2"},
	} {
		if err := m.encode.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			return nil, fmt.Errorf("encode a header block: %w", err)
		}
	}
	return m.buf.Bytes(), nil
}

// judge tells what is wrong with an answer, "" if it is what the request has to get: its client's identity, or, with a bad credential, the refusal.
func judge(answer []byte, client int, bad bool) string {
	if len(answer) < prefixLen || answer[0] != 0 || int(binary.BigEndian.Uint32(answer[1:])) != len(answer)-prefixLen {
		return "an answer is not one message"
	}
	var m extprocv3.ProcessingResponse
	if err := proto.Unmarshal(answer[prefixLen:], &m); err != nil {
		return "an answer is no ProcessingResponse"
	}
	if refusal := m.GetImmediateResponse(); refusal != nil {
		if status := refusal.GetStatus().GetCode(); !bad || status != http.StatusUnauthorized {
			return fmt.Sprintf("answered with %d %s", status, refusal.GetDetails())
		}
		return ""
	}
	if m.GetRequestHeaders() == nil {
		return "the answer is of another phase"
	}
	if bad {
		return "a bad credential was let through"
	}
	identity := ""
	for _, h := range m.GetRequestHeaders().GetResponse().GetHeaderMutation().GetSetHeaders() {
		if h.GetHeader().GetKey() == rig.IdentityHeader {
			identity = string(h.GetHeader().GetRawValue())
		}
	}
	if identity != credentials.Identity(client) {
		return "let through without the client's identity"
	}
	return ""
}

// prefixLen is that of gRPC: a flag and the length.
const prefixLen = 5
