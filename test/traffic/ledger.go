// Package traffic sends requests at a constant rate, each with an id of its own, and keeps account of each: what the client got, and what reached the upstream with which proof.
package traffic

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/policy-engine/policy-engine/test/proof"
)

// Expect is what must become of a request.
type Expect uint8

const (
	// Pass: the client gets 200, and the upstream the request, with its proof.
	Pass Expect = iota
	// Refuse: it never reaches the upstream.
	Refuse
)

// Kind is a kind of request.
type Kind struct {
	Name   string
	Expect Expect
	// Weight is how often the kind comes, among all.
	Weight int
	// Write appends the request with that id to dst, as it is sent.
	Write func(dst []byte, id string) []byte
}

// A record is what is known of one request. Times are since the ledger's beginning.
type record struct {
	kind        *Kind
	sent, ended time.Duration // ended is 0 while it is under way
	status      int           // 0: no answer
	silent      bool          // no answer came in time
	arrived     uint8
	proven      bool
}

// Ledger is the account. It is safe for concurrent use.
type Ledger struct {
	key   proof.Key
	start time.Time

	mu      sync.Mutex
	first   uint64 // the id of records[0]
	records []record
	// ended is below the first request that is under way, of those before it all have ended.
	ended uint64
	// strange are requests that reached the upstream without an id that is known.
	strange []string
}

// NewLedger makes an empty account. The key is that of the proofs.
func NewLedger(key proof.Key) *Ledger { return &Ledger{key: key, start: time.Now()} }

// Begin notes that a request is sent and gives it its id.
func (l *Ledger) Begin(k *Kind) uint64 {
	now := time.Since(l.start)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, record{kind: k, sent: now})
	return l.first + uint64(len(l.records)) - 1
}

// End notes what the client got: a status, or 0 when the request failed without one; silent when that was for want of an answer.
func (l *Ledger) End(id uint64, status int, silent bool) {
	now := time.Since(l.start)
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.record(id); r != nil {
		r.ended, r.status, r.silent = max(now, 1), status, silent
	}
}

// maxStrange is how many requests without a known id are kept.
const maxStrange = 100

// Arrived notes that a request reached the upstream.
func (l *Ledger) Arrived(id, proof string) {
	proven := l.key.Proves(id, proof)
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := strconv.ParseUint(id, 10, 64)
	r := l.record(n)
	if err != nil || r == nil {
		if len(l.strange) < maxStrange {
			l.strange = append(l.strange, fmt.Sprintf("id %.100q, proof %.100q", id, proof))
		}
		return
	}
	// Of several arrivals, none may be without proof.
	r.proven = proven && (r.arrived == 0 || r.proven)
	if r.arrived < 255 {
		r.arrived++
	}
}

// record is that of an id, nil if there is none. mu is held.
func (l *Ledger) record(id uint64) *record {
	if id < l.first || id-l.first >= uint64(len(l.records)) {
		return nil
	}
	return &l.records[id-l.first]
}

// Next is the id of the next request.
func (l *Ledger) Next() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first + uint64(len(l.records))
}

// Ended reports whether all requests before that one have ended.
func (l *Ledger) Ended(before uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.ended < before {
		if r := l.record(l.ended); r != nil && r.ended == 0 {
			return false
		}
		l.ended++
	}
	return true
}

// Forget drops the records before that request. What arrives of them later is strange, and so it counts.
func (l *Ledger) Forget(before uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if before <= l.first {
		return
	}
	n := min(int(before-l.first), len(l.records))
	l.records = append([]record(nil), l.records[n:]...)
	l.first += uint64(n)
}
