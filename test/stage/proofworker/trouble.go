package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/policy-engine/policy-engine/policies"
)

// order is the header of a request that makes trouble for this request alone: panic, error, spin, or for wait a duration.
const order = "x-trouble"

// told is the content of the process's file of trouble: exit, hog, leak; or nothing.
var told atomic.Pointer[string]

// The sizes of trouble: with each request, hog takes memory that comes back with the file's end, and leak a little, and a goroutine, that never do.
const (
	hogSize  = 4 << 20
	leakSize = 512 << 10
)

// hoarded is what hog and leak keep.
var hoarded atomic.Pointer[[][]byte]

// follow reads the file of trouble again and again: it is changed while the process runs, and not there when all is well.
func follow(file string) {
	none := ""
	read := func() {
		text, err := os.ReadFile(file)
		if err != nil {
			if before := told.Swap(&none); before != nil && *before == "hog" {
				hoarded.Store(nil)
			}
			return
		}
		what := strings.TrimSpace(string(text))
		if what == "exit" {
			os.Exit(3)
		}
		told.Store(&what)
	}
	read()
	go func() {
		for {
			time.Sleep(20 * time.Millisecond)
			read()
		}
	}()
}

// trouble goes on, unless request or process are to make trouble.
type trouble struct{}

func (*trouble) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	switch *told.Load() {
	case "hog":
		hoard(hogSize)
	case "leak":
		hoard(leakSize)
		go func() { select {} }()
	}
	what, n := r.Header(order)
	if n == 0 {
		return policies.Continue(), nil
	}
	switch string(what) {
	case "panic":
		panic("told to")
	case "error":
		return policies.Continue(), errors.New("told to")
	}
	return policies.Deny(400, "no_such_trouble"), nil
}

// hoard keeps memory, all of it touched.
func hoard(size int) {
	b := make([]byte, size)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	for {
		old := hoarded.Load()
		var all [][]byte
		if old != nil {
			all = *old
		}
		all = append(all[:len(all):len(all)], b)
		if hoarded.CompareAndSwap(old, &all) {
			return
		}
	}
}

// wait waits as long as the request says, whatever becomes of its time.
type wait struct{}

func (*wait) MayBlock() {}

func (*wait) OnRequestHeaders(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
	what, n := r.Header(order)
	if n == 0 {
		return policies.Continue(), nil
	}
	d, err := time.ParseDuration(string(what))
	if err != nil {
		return policies.Continue(), err
	}
	<-time.After(d)
	return policies.Deny(400, "waited"), nil
}
