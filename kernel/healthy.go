package kernel

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// healthyTimeout bounds the question whether a kernel is ready. A container engine asks every few seconds.
const healthyTimeout = 2 * time.Second

// askHealthy asks the kernel whose admin port has this address, HOST:PORT, whether it is ready. It is the container's health check: an image need not have a client of HTTP.
func askHealthy(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, healthyTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/health/ready", http.NoBody)
	if err != nil {
		return fmt.Errorf("ask the kernel at %q: %w", address, err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // No proxy: it is this machine's.
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the kernel: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	why, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	if err != nil {
		return fmt.Errorf("ask the kernel: %w", err)
	}
	return fmt.Errorf("the kernel is not ready: status %d: %s", response.StatusCode, strings.TrimSpace(string(why)))
}
