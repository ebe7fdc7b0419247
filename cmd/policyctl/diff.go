package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/config"
)

// tokenVariable has the admin token, for those who don't keep it in a file.
const tokenVariable = "POLICY_ENGINE_ADMIN_TOKEN"

// errDiffers says that there are changes, which is exit status 1, as diff(1) has it.
var errDiffers = errors.New("the configurations differ")

func (p *program) diff(args []string) error {
	var admin, tokenFile string
	var asJSON bool
	f := p.flags("policyctl diff [FLAGS] OLD NEW  or  policyctl diff --admin URL [FLAGS] NEW",
		"Shows what a reload would change: routes, policies with their parameters, workers, answers, limits; and what needs a restart.\n"+
			"Defaults that are written out and the order of routes are no changes. Secrets are compared and never shown; the\n"+
			"page of a running kernel doesn't show them either, so with --admin a changed secret is not seen.\n"+
			"Exit status: 0 no changes, 1 changes, 2 trouble.")
	f.StringVar(&admin, "admin", "", "the `URL` of a running kernel's admin port, such as http://127.0.0.1:9090: its configuration takes the place of OLD")
	f.StringVar(&tokenFile, "token-file", "", "a `file` with the admin token; else $"+tokenVariable+" is used, if it is set")
	f.BoolVar(&asJSON, "json", false, "print a list of changes as JSON")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return badUsage("%v; --help lists the flags", err)
	}
	files := 2
	if admin != "" {
		files = 1
	}
	if f.NArg() != files {
		return badUsage("%d files are given; legal are OLD and NEW, or NEW with --admin", f.NArg())
	}
	old, err := p.oldTree(admin, tokenFile, f.Arg(0))
	next, nextErr := effectiveTree(f.Arg(f.NArg() - 1))
	if err := errors.Join(err, nextErr); err != nil {
		return mistakes(strings.Split(err.Error(), "\n"))
	}
	changes := config.Diff(old, next)
	if err := p.printChanges(changes, asJSON); err != nil {
		return err
	}
	if len(changes) > 0 {
		return errDiffers
	}
	return nil
}

func (p *program) printChanges(changes []config.Change, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(p.stdout)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if changes == nil {
			changes = []config.Change{}
		}
		return enc.Encode(changes)
	}
	for _, c := range changes {
		if _, err := fmt.Fprintln(p.stdout, c); err != nil {
			return err
		}
	}
	return nil
}

func effectiveTree(file string) (config.Tree, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read configuration file: %w", err)
	}
	return config.EffectiveKernel(file, data)
}

// oldTree is what runs, or what is in the file.
func (p *program) oldTree(admin, tokenFile, file string) (config.Tree, error) {
	if admin == "" {
		return effectiveTree(file)
	}
	token := p.getenv(tokenVariable)
	if tokenFile != "" {
		content, err := os.ReadFile(tokenFile)
		if err != nil {
			return nil, fmt.Errorf("read token: %w", err)
		}
		token = strings.TrimSpace(string(content))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(admin, "/")+"/config", nil)
	if err != nil {
		return nil, fmt.Errorf("ask the kernel for its configuration: %w", err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the kernel for its configuration: %w", err)
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, 1<<30)
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(body, 500)) // What can be read of it is told.
		return nil, fmt.Errorf("ask the kernel for its configuration: %s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	var page struct {
		Config config.Tree `json:"policy_kernel"`
	}
	dec := json.NewDecoder(body)
	dec.UseNumber()
	if err := dec.Decode(&page); err != nil {
		return nil, fmt.Errorf("read the kernel's configuration: %w", err)
	}
	if page.Config == nil {
		return nil, errors.New("read the kernel's configuration: the page has none")
	}
	return page.Config, nil
}
