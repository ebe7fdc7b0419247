package tokenquota

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/ratelimit/bucket"
)

// UsageDefinition returns the entry of tokenUsage for a worker's registry. It charges the buckets of tokenQuota, and so works on its store.
func UsageDefinition() policies.Definition {
	return policies.Define(usageName, version, buildUsage).SharingWith(name)
}

// Usage is tokenUsage at one place of the configuration.
type Usage struct {
	paths      []path
	terms      []term
	freeErrors bool
	store      *bucket.Store
	clock      policies.Clock
	unknown    policies.Counter
}

func buildUsage(env policies.Env, params UsageParams) (*Usage, error) {
	terms, paths, err := params.check()
	if err != nil {
		return nil, err
	}
	store, err := openStore(env)
	if err != nil {
		return nil, err
	}
	return &Usage{paths: paths, terms: terms, freeErrors: params.FreeErrors, store: store, clock: env.Clock(), unknown: env.Counter("unknown")}, nil
}

// reading is what travels from chunk to chunk. encoding/binary writes it.
type reading struct {
	Form   form
	Events events
	// Charged is the most that was found, and charged, so far.
	Charged int64
}

var errNoQuota = errors.New("charge usage: the request was not charged; tokenQuota has to stand in the request flow, and must not let requests pass when it fails")

// OnResponseChunk looks for the usage, and charges what is above the estimate as soon as it is known: a client that hangs up has used it all the same.
func (u *Usage) OnResponseChunk(_ context.Context, r *policies.Response, c policies.Chunk) (policies.Verdict, error) {
	if _, ok := r.Metadata(receipts[0]); !ok {
		return policies.Verdict{}, errNoQuota
	}
	var now reading
	if state := r.State(); len(state) > 0 {
		if err := now.decode(state, u.paths); err != nil {
			return policies.Verdict{}, err
		}
	} else {
		now.Form = formOf(r)
	}
	switch now.Form {
	case formEvents:
		now.Events.write(u.paths, c.Bytes())
	case formLines:
		now.Events.Scanner.lines(u.paths, c.Bytes())
	default:
		now.Events.Scanner.write(u.paths, c.Bytes())
	}
	if err := u.charge(r, &now, c.Last()); err != nil {
		return policies.Verdict{}, err
	}
	if !c.Last() {
		r.SetState(now.encode())
	}
	return policies.Continue(), nil
}

// charge brings the buckets to what is known now. While the body lasts, that is the estimate, or the most that was found, if that is more; at its end it is what was found
// last, and the estimate if nothing was.
func (u *Usage) charge(r *policies.Response, now *reading, last bool) error {
	usage, found := sum(u.terms, &now.Events.Scanner)
	if !last && usage <= now.Charged {
		return nil
	}
	if last && !found {
		u.unknown.Inc()
		if !u.freeErrors || r.Status() < 400 {
			return nil
		}
	}
	before := now.Charged
	now.Charged = max(before, usage)
	at := u.clock.Now()
	for _, key := range receipts {
		text, ok := r.Metadata(key)
		if !ok {
			break
		}
		paid, err := parseReceipt(text)
		if err != nil {
			return err
		}
		due := max(paid.rate.Cost, now.Charged)
		if last { // What was found, or nothing for an error.
			due = usage
		}
		u.store.Charge(paid.bucket, u.store.Account(paid.account), &paid.rate, due-max(paid.rate.Cost, before), at)
	}
	return nil
}

// form is how the texts of an answer are put together.
type form uint8

const (
	formJSON   form = iota // one text, or a list of them
	formEvents             // server-sent events
	formLines              // a text in each line
	numForms
)

// formOf goes by the first content-type; one that lies has its usage not found, and costs the estimate.
func formOf(r *policies.Response) form {
	contentType, _ := r.Header("content-type")
	essence, _, _ := bytes.Cut(contentType, []byte(";"))
	switch essence = bytes.Trim(essence, " \t"); {
	case bytes.EqualFold(essence, []byte("text/event-stream")):
		return formEvents
	case bytes.EqualFold(essence, []byte("application/x-ndjson")), bytes.EqualFold(essence, []byte("application/ndjson")),
		bytes.EqualFold(essence, []byte("application/jsonl")), bytes.EqualFold(essence, []byte("application/x-jsonlines")):
		return formLines
	}
	return formJSON
}

// ReadsBodiesOnly implements policies.ReadOnlyBodies.
func (*Usage) ReadsBodiesOnly() {}

// DecodesBodies implements policies.DecodedBodies.
func (*Usage) DecodesBodies() {}

var readingSize = binary.Size(reading{})

func (d *reading) encode() []byte {
	b, err := binary.Append(make([]byte, 0, readingSize), binary.LittleEndian, d)
	if err != nil { // Its size is fixed.
		panic(err)
	}
	return b
}

var errState = errors.New("charge usage: the state is malformed")

// decode reads what encode wrote, and refuses what encode can't have written.
func (d *reading) decode(b []byte, paths []path) error {
	if n, err := binary.Decode(b, binary.LittleEndian, d); err != nil || n != len(b) {
		return errState
	}
	s := &d.Events.Scanner
	if d.Form >= numForms || s.State >= numLexemes || s.Depth > maxDepth || s.Number < 0 || s.Number > maxUsage || d.Events.Field >= numFields ||
		int(d.Events.Name) > len(dataName) || int(d.Events.Mark) > len(byteOrderMark) || !d.Events.Begun && int(d.Events.Mark) == len(byteOrderMark) || d.Charged < 0 || d.Charged > maxUsage {
		return errState
	}
	for i := range s.Paths {
		p, names := &s.Paths[i], path{}
		if i < len(paths) {
			names = paths[i]
		}
		switch {
		case p.Value < 0 || p.Value > maxUsage || int(p.Matched) > len(names) || p.Key < -1:
			return errState
		case p.Key > 0 && (int(p.Matched) >= len(names) || int(p.Key) > len(names[p.Matched])):
			return errState
		case int(p.Matched) >= len(names) && (p.Next || i < len(paths) && s.IsKey && p.Key >= 0):
			return errState
		}
	}
	return nil
}

var (
	_ policies.ResponseChunks = (*Usage)(nil)
	_ policies.ReadOnlyBodies = (*Usage)(nil)
	_ policies.DecodedBodies  = (*Usage)(nil)
)
