// Command upstream is the demo's upstream: it answers every request with what it received, as JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// received is the answer. Header names are as net/http spells them; the values of repeated lines are joined by a comma (RFC 9110 section 5.2).
type received struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
}

func main() {
	address := flag.String("address", "127.0.0.1:10001", "where to listen")
	flag.Parse()
	log.SetFlags(0)

	server := &http.Server{
		Addr:              *address,
		Handler:           http.HandlerFunc(echo),
		ReadHeaderTimeout: 5 * time.Second,
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { _ = server.Close() })

	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatalf("serve on %q: %v", *address, err)
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	headers := make(map[string]string, len(r.Header))
	for name, values := range r.Header {
		headers[name] = strings.Join(values, ", ")
	}
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	// An error here means that the client has gone; there is nobody to tell.
	_ = encoder.Encode(received{Method: r.Method, Path: r.URL.RequestURI(), Headers: headers})
}
