package extproc

import "testing"

// wireSteps are the parts of a step that work on bytes, each by itself.
func wireSteps(t testing.TB) map[string]func() {
	p := newAllowPath(t, "orders", true)
	var d decoder
	var translated changes
	var answer, metadata []byte
	mutations := p.requestOK.Mutations
	// A machine that is about to answer the request's headers, and wants those of the response.
	m := &Machine{phase: requestHeaders, route: p.m.settings.Routes.Current().Lookup("orders")}
	m.wanted.add(responseHeaders)
	m.changes.add(mutations)
	return map[string]func(){
		"decode": func() {
			for _, message := range [][]byte{p.request, p.response} {
				if _, err := d.decode(message); err != nil || len(d.headers.Headers) == 0 {
					t.Fatal(err)
				}
				d.reset()
			}
		},
		"translate": func() {
			translated.reset()
			if !translated.fits(mutations) {
				t.Fatal("too much")
			}
			translated.add(mutations)
			if len(translated.list) != len(mutations) {
				t.Fatal(len(translated.list))
			}
		},
		"marshal": func() {
			if answer = m.appendHeadersAnswer(answer[:0], m.phase, &m.changes); len(answer) < 44 {
				t.Fatalf("% x", answer)
			}
			metadata = appendStructNumber(appendStructString(metadata[:0], "policy", "auth"), "status", 401)
		},
	}
}

func TestWireDoesNotAllocate(t *testing.T) {
	for name, step := range wireSteps(t) {
		t.Run(name, func(t *testing.T) {
			step()
			if n := testing.AllocsPerRun(1000, step); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}

// BenchmarkWire is what a step does with bytes: decode the messages of a request and its response, translate a worker's changes, marshal the answer.
func BenchmarkWire(b *testing.B) {
	for name, step := range wireSteps(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				step()
			}
		})
	}
}
