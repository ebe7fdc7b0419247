package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/policy-engine/policy-engine/config"
)

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
	f.StringVar(&admin, "admin", "", "the `URL` of a running kernel's guarded pages, such as http://127.0.0.1:9090, or unix:PATH of their socket: its configuration takes the place of OLD")
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
	if len(changes) == 0 {
		return nil
	}
	if admin == "" && !asJSON {
		if err := p.noteEnvoy(f.Arg(0), f.Arg(1)); err != nil {
			return err
		}
	}
	return errDiffers
}

// noteEnvoy tells when Envoy has to wait longer than it was told to: its answer would come before the kernel's.
func (p *program) noteEnvoy(oldFile, newFile string) error {
	old, err := config.LoadKernel(oldFile)
	if err != nil {
		return err
	}
	next, err := config.LoadKernel(newFile)
	if err != nil {
		return err
	}
	known := newCatalogue()
	if was, is := leastMessageTimeout(old, known), leastMessageTimeout(next, known); is > was {
		_, err = fmt.Fprintf(p.stdout, "note: Envoy's message_timeout has to be %v at least, it was %v; give Envoy its new configuration (policyctl envoy) before the reload\n", is, was)
	}
	return err
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
	var page struct {
		Config config.Tree `json:"policy_kernel"`
	}
	if err := p.askAdmin(admin, tokenFile, "/config", &page); err != nil {
		return nil, err
	}
	if page.Config == nil {
		return nil, errors.New("read the kernel's configuration: the page has none")
	}
	return page.Config, nil
}
