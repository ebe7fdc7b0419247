package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	// tokenVariable has the admin token, for those who don't keep it in a file.
	tokenVariable = "POLICY_ENGINE_ADMIN_TOKEN"
	// adminTime is how long a kernel may take to answer.
	adminTime = 30 * time.Second
	// maxPage is the longest page that is read, in bytes.
	maxPage = 1 << 30
)

// askAdmin reads a page of a running kernel.
func (p *program) askAdmin(admin, tokenFile, page string, into any) error {
	token := p.getenv(tokenVariable)
	if tokenFile != "" {
		content, err := os.ReadFile(tokenFile)
		if err != nil {
			return fmt.Errorf("read token: %w", err)
		}
		token = strings.TrimSpace(string(content))
	}
	ctx, cancel := context.WithTimeout(context.Background(), adminTime)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true}
	if path, ok := strings.CutPrefix(admin, "unix:"); ok {
		admin = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(admin, "/")+page, nil)
	if err != nil {
		return fmt.Errorf("ask the kernel: %w", err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	// The token is for this kernel, not for where it may send us.
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the kernel: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500)) // What can be read of it is told.
		return fmt.Errorf("ask the kernel: %s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	dec := json.NewDecoder(io.LimitReader(resp.Body, maxPage))
	dec.UseNumber()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("read the kernel's page %s: %w", page, err)
	}
	return nil
}
