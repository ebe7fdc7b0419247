package extproc

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/policy-engine/policy-engine/fastpath/contentcoding"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/fastpath/view"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// direction is what is known of the request, or of the response.
type direction struct {
	// mode is what was asked of Envoy for the body.
	mode route.BodyMode
	// hasLength, coded, upgrade: of the headers. unknownCoding: the engine cannot decode it.
	hasLength, coded, upgrade, unknownCoding bool
	// replaces: a policy takes part in the body that may replace it.
	replaces bool
	// heldBack is how many bytes of a body that no policy may replace have not gone on yet.
	heldBack int
	length   int64 // -1 if there is none that can be read
	fields   int   // how many header fields came
	// digests are the headers that tell the body by its bytes: the bits of their indices in digestNames.
	digests uint8
	// duplex: Envoy sends its body in full duplex. withheld: the answer to the headers waits for the end of the body. endSeen: the last chunk has come; endRepeated: and once more.
	duplex, withheld, endSeen, endRepeated bool
	// bodySeen: a message of it has come. bodyDone: its policies have seen its end.
	bodySeen, bodyDone bool
	// limited: the policies after the one at limitIndex of the chain at limitPosition were skipped.
	limited                   bool
	limitPosition, limitIndex int
	// lost are the segments, by position, that failed on a chunk and are not called again for this body.
	lost uint64
	// skipped are the policies that skip the body of this message (Segment.Skips).
	skipped uint64
}

// digestNames are the validator (RFC 9110 section 8.8.3) and the checksums (RFC 9530, and RFC 3230 and RFC 1864 before it) of a body. Where policies may replace some of its
// chunks, they are not of what goes on. The worker removes them itself when a policy has replaced a whole body.
var digestNames = [...]string{"etag", "content-digest", "repr-digest", "digest", "content-md5"}

// headersSeen notes what the body's phases need of the headers.
func (d *direction) headersSeen(fields []headermap.Field) {
	d.length, d.fields = -1, len(fields)
	var room [contentcoding.Max]contentcoding.Coding
	codings := room[:0]
	upgrade, connection := false, false
	for i := range fields {
		switch f := &fields[i]; string(f.Name) {
		case "content-length":
			d.hasLength = true
			if n, err := strconv.ParseInt(view.String(f.Value), 10, 64); err == nil {
				d.length = n
			}
		case "content-encoding":
			var err error
			codings, err = contentcoding.Append(codings, f.Value)
			d.unknownCoding = d.unknownCoding || err != nil
		case "etag", "content-digest", "repr-digest", "digest", "content-md5":
			d.digests |= 1 << slices.Index(digestNames[:], view.String(f.Name))
		case "upgrade":
			upgrade = true
		case "connection":
			connection = connection || bytes.Contains(bytes.ToLower(f.Value), []byte("upgrade"))
		case ":method":
			d.upgrade = d.upgrade || string(f.Value) == "CONNECT"
		}
	}
	d.upgrade = d.upgrade || upgrade && connection
	d.coded = d.unknownCoding || len(codings) > 0
}
