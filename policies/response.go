package policies

import (
	"iter"
	"strconv"

	"github.com/policy-engine/policy-engine/fastpath/view"
)

// Response is an HTTP response on its way to the client, as the policies before left it. It is valid only during the call of the phase method, and so is every
// byte slice that it returns.
type Response struct {
	x           *Exchange
	headers     headers
	trailers    headers
	endOfStream bool
}

func (r *Response) reset() {
	r.headers.reset()
	r.trailers.reset()
	r.endOfStream = false
}

// Request returns the request as it went upstream: Envoy's headers with the changes that policies made. In a response phase it can't be changed
// any more: changes of it are errors of the policy.
func (r *Response) Request() *Request { r.x.check(); return &r.x.request }

// Status returns the status, 0 if it is missing or malformed.
func (r *Response) Status() int {
	value, _ := r.Header(":status")
	status, err := strconv.Atoi(view.String(value))
	if err != nil {
		return 0
	}
	return status
}

// EndOfStream reports whether no body follows the headers.
func (r *Response) EndOfStream() bool { return r.endOfStream }

// Header returns the first value of the header, and how many fields of that name there are. Names compare without regard to case.
func (r *Response) Header(name string) (value []byte, n int) {
	r.x.check()
	return r.headers.get(name)
}

// Headers goes through all header fields, ":status" among them.
func (r *Response) Headers() iter.Seq2[[]byte, []byte] { r.x.check(); return r.headers.all() }

// Identity returns who made the request, or nil. It is read only.
func (r *Response) Identity() *Identity { return r.Request().Identity() }

// Metadata returns what an earlier policy set under the key, in the request phase too.
func (r *Response) Metadata(key string) (string, bool) { return r.x.getMetadata(key) }

// SetMetadata sets a value for later policies. The strings are kept; they must be valid UTF-8.
func (r *Response) SetMetadata(key, value string) { r.x.setMetadata(key, value) }

// SetHeader replaces all values of the header.
func (r *Response) SetHeader(name, value string) {
	r.x.change(Change{Kind: SetHeader, Response: true, Name: name, Value: view.Bytes(value)})
}

// AppendHeader adds a value to the header.
func (r *Response) AppendHeader(name, value string) {
	r.x.change(Change{Kind: AppendHeader, Response: true, Name: name, Value: view.Bytes(value)})
}

// RemoveHeader takes the header away, if it is there.
func (r *Response) RemoveHeader(name string) {
	r.x.change(Change{Kind: RemoveHeader, Response: true, Name: name})
}

// SetStatus replaces the status; legal are 200 to 599.
func (r *Response) SetStatus(status int) {
	r.x.change(Change{Kind: SetStatus, Response: true, Value: strconv.AppendInt(nil, int64(status), 10)})
}
