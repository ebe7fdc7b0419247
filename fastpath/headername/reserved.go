package headername

import "strings"

// Reserved reports whether no policy may own the header, because every client, browser or proxy may send it: an engine that does not
// know yet what its policies own lets a request with only such headers pass. Pseudo-headers are reserved too.
func Reserved[T ~string | ~[]byte](name T) bool {
	if len(name) == 0 || name[0] == ':' {
		return true
	}
	if len(name) > longestReserved {
		return hasPrefix(name, "x-envoy-")
	}
	var buffer [longestReserved]byte
	for i := range len(name) {
		buffer[i] = folded[name[i]]
	}
	_, known := reserved[string(buffer[:len(name)])]
	return known || hasPrefix(name, "x-envoy-")
}

func hasPrefix[T ~string | ~[]byte](name T, prefix string) bool {
	return len(name) >= len(prefix) && Equal(name[:len(prefix)], prefix)
}

// longestReserved bounds the names below, in bytes.
const longestReserved = 40

// reserved are the fields of HTTP (RFC 9110 to 9114 and their neighbours) that requests have, those of browsers, and those that
// proxies and tracers add.
var reserved = func() map[string]struct{} {
	set := make(map[string]struct{})
	for name := range strings.FieldsSeq(`
		accept accept-charset accept-encoding accept-language accept-ranges access-control-request-headers
		access-control-request-method access-control-request-private-network alt-used authorization baggage b3 cache-control
		connection content-digest content-disposition content-encoding content-language content-length content-location
		content-md5 content-range content-type cookie date device-memory digest dnt downlink dpr early-data ect expect forwarded
		from grpc-accept-encoding grpc-encoding grpc-timeout host http2-settings if-match if-modified-since if-none-match if-range
		if-unmodified-since keep-alive last-event-id max-forwards origin pragma priority proxy-authorization proxy-connection
		purpose range referer repr-digest rtt save-data sec-ch-ua sec-ch-ua-arch sec-ch-ua-bitness sec-ch-ua-full-version-list
		sec-ch-ua-mobile sec-ch-ua-model sec-ch-ua-platform sec-ch-ua-platform-version sec-fetch-dest sec-fetch-mode
		sec-fetch-site sec-fetch-user sec-gpc sec-purpose sec-websocket-extensions sec-websocket-key sec-websocket-protocol
		sec-websocket-version te traceparent tracestate trailer transfer-encoding upgrade upgrade-insecure-requests user-agent via
		want-content-digest want-repr-digest warning x-b3-flags x-b3-parentspanid x-b3-sampled x-b3-spanid x-b3-traceid
		x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-request-id x-requested-with`) {
		if len(name) > longestReserved {
			panic("headername: " + name + " is longer than longestReserved")
		}
		set[Fold(name)] = struct{}{}
	}
	return set
}()
