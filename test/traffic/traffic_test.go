package traffic

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/policy-engine/policy-engine/test/proof"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newKey(t *testing.T) proof.Key {
	t.Helper()
	key, err := proof.New(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestJudged: what client and upstream saw of a request decides what it counts as.
func TestJudged(t *testing.T) {
	key := newKey(t)
	valid, invalid := &Kind{Name: "valid", Expect: Pass}, &Kind{Name: "invalid", Expect: Refuse}
	other := newKey(t)
	for name, tt := range map[string]struct {
		kind    *Kind
		status  int
		silent  bool
		proofs  []string // of each arrival
		want    string   // what it counts as beside sent, valid and invalid
		excused bool
	}{
		"passes":                           {valid, 200, false, []string{key.Of("0")}, "passed", false},
		"is refused":                       {invalid, 401, false, nil, "", false},
		"is refused for want of a worker":  {invalid, 503, false, nil, "", false},
		"is not answered, and invalid":     {invalid, 0, false, nil, "", false},
		"is lost":                          {valid, 503, false, nil, "failed lost", false},
		"is lost without an answer":        {valid, 0, false, nil, "failed lost", false},
		"is lost on its way back":          {valid, 503, false, []string{key.Of("0")}, "failed lost", false},
		"fails in an outage":               {valid, 503, false, nil, "failed excused", true},
		"is answered by somebody else":     {valid, 200, false, nil, "failed lost", false},
		"hangs":                            {valid, 0, true, nil, "failed lost hung", false},
		"hangs in an outage":               {valid, 0, true, nil, "failed excused hung", true},
		"hangs, and is invalid":            {invalid, 0, true, nil, "hung", false},
		"gets through":                     {invalid, 200, false, []string{""}, "bypassed", false},
		"gets through with a proof":        {invalid, 200, false, []string{key.Of("0")}, "bypassed", false},
		"gets through, and is told no":     {invalid, 403, false, []string{""}, "bypassed", false},
		"gets through in an outage":        {invalid, 200, false, []string{""}, "bypassed", true},
		"is invalid, and told yes":         {invalid, 200, false, nil, "bypassed", false},
		"passes without proof":             {valid, 200, false, []string{""}, "failed lost bypassed", false},
		"passes with a forged proof":       {valid, 200, false, []string{other.Of("0")}, "failed lost bypassed", false},
		"passes with another's proof":      {valid, 200, false, []string{key.Of("1")}, "failed lost bypassed", false},
		"arrives twice":                    {valid, 200, false, []string{key.Of("0"), key.Of("0")}, "passed repeated", false},
		"arrives twice, once without":      {valid, 200, false, []string{key.Of("0"), ""}, "failed lost bypassed repeated", false},
		"arrives twice, first without":     {valid, 200, false, []string{"", key.Of("0")}, "failed lost bypassed repeated", false},
		"passes without proof, and outage": {valid, 200, false, []string{""}, "failed excused bypassed", true},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewLedger(key)
			var excuse Span
			if tt.excused {
				excuse = Span{time.Now().Add(-time.Second), time.Now().Add(time.Hour)}
			}
			id := l.Begin(tt.kind)
			for _, p := range tt.proofs {
				l.Arrived(fmt.Sprint(id), p)
			}
			l.End(id, tt.status, tt.silent)
			c := l.Count(0, l.Next(), excuse, time.Minute)
			if c.Sent != 1 || c.Valid+c.Invalid != 1 || c.Valid != c.Passed+c.Failed || c.Failed != c.Lost+c.Excused {
				t.Errorf("the sums are wrong: %+v", c)
			}
			var got []string
			for _, n := range []struct {
				name string
				n    int
			}{{"passed", c.Passed}, {"failed", c.Failed}, {"lost", c.Lost}, {"excused", c.Excused}, {"hung", c.Hung}, {"bypassed", c.Bypassed}, {"repeated", c.Repeated}} {
				if n.n > 0 {
					got = append(got, n.name)
				}
			}
			want := strings.Fields(tt.want)
			if len(got) != len(want) || !containsAll(got, want) {
				t.Errorf("it counts as %v, want %v", got, want)
			}
		})
	}
}

func containsAll(got, want []string) bool {
	for _, w := range want {
		if !strings.Contains(strings.Join(got, " ")+" ", w+" ") {
			return false
		}
	}
	return true
}

// TestStrangers: what reaches the upstream without an id of ours has bypassed, and so has one that was forgotten.
func TestStrangers(t *testing.T) {
	key := newKey(t)
	l := NewLedger(key)
	k := &Kind{Expect: Pass}
	l.End(l.Begin(k), 200, false)
	l.Forget(1)
	for _, id := range []string{"", "0", "7", "x", "-1", "18446744073709551616"} {
		l.Arrived(id, key.Of(id))
	}
	if c := l.Count(1, l.Next(), Span{}, time.Minute); c.Bypassed != 6 || c.Sent != 0 {
		t.Errorf("%+v", c)
	}
	if id := l.Begin(k); id != 1 {
		t.Errorf("the next id is %d", id)
	}
}

// TestSlow: a request that was answered, but too late, hung.
func TestSlow(t *testing.T) {
	l := NewLedger(newKey(t))
	id := l.Begin(&Kind{Expect: Refuse})
	if l.Ended(id + 1) {
		t.Error("it has ended")
	}
	l.End(id, 401, false)
	if c := l.Count(0, 1, Span{}, 0); c.Hung != 1 || !l.Ended(1) {
		t.Errorf("%+v", c)
	}
}

// TestSent: requests come at their rate, each once, to an upstream that sees what they carry.
func TestSent(t *testing.T) {
	key := newKey(t)
	l := NewLedger(key)
	up, err := StartUpstream(l, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	with := func(lines func(id string) string) func([]byte, string) []byte {
		return func(dst []byte, id string) []byte {
			return fmt.Appendf(dst, "GET / HTTP/1.1\r\nhost: h\r\n%s: %s\r\n%s\r\n", proof.IDHeader, id, lines(id))
		}
	}
	right := func(id string) string { return proof.Header + ": " + key.Of(id) + "\r\n" }
	s := &Sender{Target: up.Address, Rate: 500, Ledger: l, Patience: 10 * time.Second}
	s.Send(
		&Kind{Name: "proven", Weight: 3, Write: with(right)},
		&Kind{Name: "not proven", Weight: 1, Write: with(func(string) string { return "" })},
		&Kind{Name: "proven twice", Weight: 1, Write: with(func(id string) string { return right(id) + right(id) })},
	)
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	s.Run(ctx)
	c := l.Count(0, l.Next(), Span{}, time.Minute)
	if c.Sent < 50 || c.Sent > 250 || c.Passed == 0 || c.Bypassed == 0 || c.Passed+c.Bypassed != c.Sent || c.Repeated > 0 || s.Short() > 0 {
		t.Errorf("%+v, short %d", c, s.Short())
	}
}

// TestNoRetries: a request whose connection ends fails, and is not sent again.
func TestNoRetries(t *testing.T) {
	l := NewLedger(newKey(t))
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		l.Arrived(r.Header.Get(proof.IDHeader), r.Header.Get(proof.Header))
		panic(http.ErrAbortHandler)
	})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(listener) }()
	defer func() { _ = server.Close(); <-ended }()
	s := &Sender{Target: listener.Addr().String(), Rate: 200, Ledger: l, Patience: 10 * time.Second}
	s.Send(&Kind{Weight: 1, Write: func(dst []byte, id string) []byte {
		return fmt.Appendf(dst, "GET / HTTP/1.1\r\nhost: h\r\n%s: %s\r\n\r\n", proof.IDHeader, id)
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	s.Run(ctx)
	if c := l.Count(0, l.Next(), Span{}, time.Minute); c.Sent == 0 || c.Lost != c.Sent || c.Bypassed != c.Sent || c.Repeated > 0 || c.Statuses["none"] != c.Sent {
		t.Errorf("%+v", c)
	}
}

// TestSilence: a server that never answers is not waited for longer than the patience.
func TestSilence(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	l := NewLedger(newKey(t))
	s := &Sender{Target: listener.Addr().String(), Rate: 100, Ledger: l, Patience: 100 * time.Millisecond}
	s.Send(&Kind{Weight: 1, Write: func(dst []byte, _ string) []byte { return append(dst, "GET / HTTP/1.1\r\n\r\n"...) }})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	s.Run(ctx)
	if c := l.Count(0, l.Next(), Span{}, time.Minute); c.Sent == 0 || c.Hung != c.Sent {
		t.Errorf("%+v", c)
	}
}
