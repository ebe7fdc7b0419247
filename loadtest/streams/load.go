package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	chunkSize = 64 << 10 // of what is written at a time, in bytes
	bodySize  = 64 << 20 // of one body
)

// upstream takes bodies, and sends them to those who ask.
type upstream struct {
	address  string
	server   *http.Server
	ended    chan struct{}
	received atomic.Int64 // bytes of whole bodies
}

func startUpstream() (*upstream, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the upstream: %w", err)
	}
	u := &upstream{address: l.Addr().String(), ended: make(chan struct{})}
	u.server = &http.Server{Handler: u, ReadHeaderTimeout: time.Minute}
	go func() {
		_ = u.server.Serve(l)
		close(u.ended)
	}()
	return u, nil
}

func (u *upstream) close() {
	_ = u.server.Close()
	<-u.ended
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	buf := make([]byte, chunkSize)
	n, err := io.CopyBuffer(io.Discard, hide{r.Body}, buf)
	if err != nil {
		return
	}
	u.received.Add(n)
	if r.Method != http.MethodGet {
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(bodySize))
	for range bodySize / chunkSize {
		if _, err := w.Write(buf); err != nil {
			return
		}
	}
}

// hide leaves nothing of a body but Read, so that the size of the buffer counts.
type hide struct{ io.Reader }

// body is bodySize bytes, chunkSize at a time.
type body struct{ left int }

func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), b.left, chunkSize)
	b.left -= n
	return n, nil // What the buffer has is as good as anything.
}

// load sends or gets bodies over some connections until the context ends, and returns how many bytes have passed whole or in part.
func load(ctx context.Context, target string, d direction, connections int) (int64, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: connections, WriteBufferSize: chunkSize, ReadBufferSize: chunkSize}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var passed atomic.Int64
	errs := make(chan error, connections)
	var all sync.WaitGroup
	for range connections {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := once(ctx, client, target, d, &passed); err != nil && ctx.Err() == nil {
					errs <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(errs)
	return passed.Load(), <-errs
}

// counted counts what is read.
type counted struct {
	io.Reader
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func once(ctx context.Context, client *http.Client, target string, d direction, passed *atomic.Int64) error {
	method, content := http.MethodGet, io.Reader(nil)
	if d == upload {
		method, content = http.MethodPost, counted{&body{bodySize}, passed}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+target+"/", content)
	if err != nil {
		return err
	}
	if d == upload {
		req.ContentLength = bodySize
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("status %s: %s", resp.Status, text)
	}
	n, err := io.CopyBuffer(io.Discard, counted{resp.Body, passed}, make([]byte, chunkSize))
	if err == nil && d == download && n != bodySize {
		err = errors.New("the body is cut short")
	}
	return err
}
