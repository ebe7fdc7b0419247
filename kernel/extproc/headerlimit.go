package extproc

import (
	"strconv"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// Envoy refuses a header mutation after which the header map has more fields, or more bytes of names and values, than its connection manager or cluster takes (mutation_utils.cc,
// headerMutationResultCheck), and answers with an empty 500. Envoy adds fields of its own before it asks, so a client can get there with fewer fields than the limit. The
// kernel refuses such messages itself, with a status that says what is wrong; a message without changes is not checked, as Envoy does not.

// limitOfHeaders returns Envoy's limits for the phase under way. The size is that of responses over HTTP/2; see fits.
func (m *Machine) limitOfHeaders() (count, size int) {
	terms := m.table.Terms()
	if m.phase >= responseHeaders {
		return terms.MaxHeaderCount, terms.MaxResponseHeaderSize
	}
	return terms.MaxHeaderCount, terms.MaxHeaderSize
}

// fits reports whether Envoy takes a header map. Its limit of a response depends on the upstream's protocol, of which
// it does not tell.
func (m *Machine) fits(r *result) bool {
	count, size := m.limitOfHeaders()
	return r.count <= count && (r.size <= size || m.phase >= responseHeaders && r.size <= m.table.Terms().MaxHTTP1HeaderSize && m.overHTTP1())
}

// overHTTP1 reports whether the response comes from an upstream over HTTP/1 for certain: it has fields that HTTP/2
// does not have (RFC 9113 section 8.2.2), or more bytes than Envoy takes over HTTP/2, and room for those that Envoy
// adds before it asks.
func (m *Machine) overHTTP1() bool {
	fields, err := headermap.Parse(nil, m.responseMap)
	if err != nil {
		return false
	}
	size := 0
	for i := range fields {
		switch string(fields[i].Name) {
		case "transfer-encoding", "connection":
			return true
		}
		size += len(fields[i].Name) + len(fields[i].Value)
	}
	return size > m.table.Terms().MaxResponseHeaderSize+addedByEnvoy
}

const (
	// addedByEnvoy bounds the fields of a response that Envoy adds before it asks, in bytes, such as
	// x-envoy-upstream-service-time.
	addedByEnvoy = 1024
	// maxLength is how long a content-length field is.
	maxLength = len("content-length") + 20
)

// headersFit reports whether Envoy takes the answer to a header phase with c. fields are the headers that came, of encoded bytes.
func (m *Machine) headersFit(fields []headermap.Field, encoded int, c *changes) bool {
	// Fast path: nothing is changed, or there is room even if all that is set is new.
	if len(c.list) == 0 && !m.mayReplace(m.phase) {
		return true
	}
	count, size := m.limitOfHeaders()
	if len(fields)+len(c.list) <= count && encoded+c.size <= size {
		return true
	}
	r := newResult(fields, m.phase)
	r.apply(c)
	if m.mayReplace(m.phase) {
		m.direction(m.phase).eachStale(r.remove)
	}
	return m.fits(r)
}

// bodyHeadersFit reports whether Envoy takes the header changes of the answer to a whole body: they are made after those of the headers, which are in m.applied.
func (m *Machine) bodyHeadersFit() bool {
	d := m.direction(m.phase)
	setLength := m.setsLength()
	if len(m.changes.list) == 0 && !setLength {
		return true
	}
	count, size := m.limitOfHeaders()
	encoded := m.encodedHeaders()
	// Fast path: there is room even if all that is set is new.
	if d.fields+len(m.applied.list)+len(m.changes.list)+1 <= count && len(encoded)+m.applied.size+m.changes.size+maxLength <= size {
		return true
	}
	fields, err := headermap.Parse(nil, encoded)
	if err != nil {
		return false
	}
	r := newResult(fields, m.phase)
	if !d.duplex {
		r.apply(&m.applied)
	}
	r.apply(&m.changes)
	if setLength {
		r.remove("content-length")
		r.add("content-length", strconv.Itoa(len(m.body.bytes)))
	}
	return m.fits(r)
}

// encodedHeaders are the headers that came in the direction of the phase under way.
func (m *Machine) encodedHeaders() []byte {
	if m.phase >= responseHeaders {
		return m.responseMap
	}
	return m.requestMap
}

// setsLength reports whether the answer to a body sets its content-length. Of a buffered body, Envoy keeps it, and refuses a body of another length (processor_state.cc, validateContentLength).
func (m *Machine) setsLength() bool {
	return m.body.replaced && m.body.whole && m.direction(m.phase).hasLength
}

// mayReplace reports whether the answer to header phase p removes what tells the length and digest of a body. A
// streamed body may change its length where a policy takes part in it that may replace it; elsewhere the headers
// stay, by which a client sees that a body broke off.
func (m *Machine) mayReplace(p workerv1.Phase) bool {
	d := m.direction(p)
	return !isTrailers(p) && d.replaces && d.mode == route.BodyStreamed && (d.hasLength || d.digests != 0)
}

// tooManyHeaders is the refusal of a message whose headers Envoy would not take.
func (m *Machine) tooManyHeaders() *refusal {
	m.detail = "with the changes of the policies, the headers are more or longer than Envoy takes"
	if m.phase >= responseHeaders {
		return &responseTooLarge
	}
	return &requestTooLarge
}

// result is a header map of Envoy's as changes make it.
type result struct {
	response    bool
	count, size int
	names       map[string]lines
}

// lines are the fields of one name; size is that of their values together.
type lines struct{ count, size int }

func newResult(fields []headermap.Field, p workerv1.Phase) *result {
	r := &result{response: p >= responseHeaders, names: make(map[string]lines, len(fields))}
	for i := range fields {
		// What came stays as it came: Envoy has joined the lines of the names that it joins.
		r.put(string(fields[i].Name), len(fields[i].Value))
	}
	return r
}

func (r *result) put(name string, value int) {
	l := r.names[name]
	r.names[name] = lines{l.count + 1, l.size + value}
	r.count, r.size = r.count+1, r.size+len(name)+value
}

func (r *result) remove(name string) {
	l := r.names[name]
	r.count, r.size = r.count-l.count, r.size-l.count*len(name)-l.size
	delete(r.names, name)
}

// add is HeaderMapImpl::addCopy (header_map_impl.cc): of some names, Envoy keeps one line, and joins the values with a comma.
func (r *result) add(name, value string) {
	l := r.names[name]
	if l.count == 0 || !joined(name, r.response) {
		r.put(name, len(value))
		return
	}
	more := len(value)
	if more > 0 && l.size > 0 {
		more++
	}
	r.names[name] = lines{l.count, l.size + more}
	r.size += more
}

// apply does what Envoy does with changes.append: removals first, then what is set.
func (r *result) apply(c *changes) {
	for i := range c.list {
		if ch := &c.list[i]; ch.kind == removeHeader && !c.superseded(i) {
			r.remove(string(ch.name))
		}
	}
	for i := range c.list {
		ch := &c.list[i]
		if ch.kind == removeHeader || c.superseded(i) {
			continue
		}
		if ch.kind == setHeader {
			r.remove(string(ch.name))
		}
		r.add(string(ch.name), string(ch.value))
	}
}

// joined reports whether Envoy keeps one line of a header (header_map.h, INLINE_REQ_HEADERS and INLINE_RESP_HEADERS, and what its filters register).
func joined(name string, response bool) bool {
	switch name {
	case "content-type", "x-request-id", "via", "proxy-status", "cache-control", "content-encoding":
		return true
	}
	if response {
		switch name {
		case "date", "location", "server", "vary", "etag", "grpc-message", "grpc-status", "access-control-allow-credentials", "access-control-allow-headers",
			"access-control-allow-methods", "access-control-allow-origin", "access-control-allow-private-network", "access-control-expose-headers", "access-control-max-age",
			"last-modified", "age", "expires":
			return true
		}
		return false
	}
	switch name {
	case "x-client-trace-id", "x-forwarded-client-cert", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "grpc-timeout", "user-agent",
		"accept", "accept-encoding", "authorization", "origin", "referer", "pragma", "cdn-loop", "grpc-accept-encoding", "if-match", "if-none-match", "if-modified-since",
		"if-unmodified-since", "if-range", "access-control-request-headers", "access-control-request-method", "access-control-request-private-network":
		return true
	}
	return false
}
