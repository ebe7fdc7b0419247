package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/worker"
)

// validation collects all mistakes of the files that are checked together.
type validation struct {
	now     func() time.Time
	kernel  *config.Kernel
	workers []*config.Worker
	unread  bool     // a worker's file has mistakes, and so is not among workers
	assumed []string // policies that a custom worker offers
	found   mistakes
	// warnings are about what is valid and probably not meant.
	warnings config.Errors
}

func (p *program) validate(args []string) error {
	var kernelFile, envoyFile string
	var workerFiles, assumed list
	var strict bool
	f := p.flags("policyctl validate --kernel FILE --worker FILE [--worker FILE]... [FLAGS]",
		"Checks the configuration files against each other, and all files that they name. Nothing is sent over a network.")
	f.StringVar(&kernelFile, "kernel", "", "the kernel's configuration `file`; required")
	f.Var(&workerFiles, "worker", "the configuration `file` of a worker; may be repeated")
	f.Var(&assumed, "assume-policy", "the `name` of a policy that a worker of one's own offers, and policyctl does not know; may be repeated")
	f.BoolVar(&strict, "strict", false, "fail with exit status 1 if there are warnings")
	f.StringVar(&envoyFile, "envoy", "", "Envoy's bootstrap configuration, a `file`")
	if err := parse(f, args); err != nil {
		return err
	}
	if kernelFile == "" {
		return badUsage("--kernel is missing; it is required")
	}
	v := &validation{now: p.now, assumed: assumed}
	if err := v.load(kernelFile, workerFiles); err != nil {
		return err
	}
	if v.kernel != nil {
		v.matchWorkers(len(workerFiles))
		v.checkTLS()
		v.checkToken()
		v.checkPolicies(newCatalogue())
	}
	for _, w := range v.workers {
		for _, err := range worker.CheckFiles(w, v.now()) {
			v.add(err)
		}
	}
	var notes []string
	if envoyFile != "" && v.kernel != nil {
		var err error
		if notes, err = v.checkEnvoy(envoyFile); err != nil {
			return err
		}
	}
	_ = v.warnings.Err() // It sorts them.
	for _, w := range v.warnings {
		fmt.Fprintln(p.stderr, "warning: "+w.Error())
	}
	if len(v.found) > 0 {
		return v.found
	}
	if strict && len(v.warnings) > 0 {
		return fmt.Errorf("--strict: %d warnings", len(v.warnings))
	}
	for _, note := range notes {
		fmt.Fprintln(p.stdout, "note: "+note)
	}
	_, err := fmt.Fprintln(p.stdout, v.summary(envoyFile))
	return err
}

func (v *validation) add(err error) { v.found = append(v.found, err.Error()) }

// warn notes what is valid and probably not meant.
func (v *validation) warn(pos config.Pos, format string, args ...any) {
	v.warnings.Add(pos, "%s", v.kernel.Hide(pos.Path, fmt.Sprintf(format, args...)))
}

func (v *validation) fail(pos config.Pos, format string, args ...any) {
	problem := fmt.Sprintf(format, args...)
	if v.kernel != nil && pos.File == v.kernel.File {
		problem = v.kernel.Hide(pos.Path, problem)
	}
	v.add(config.Error{Pos: pos, Problem: problem})
}

// load reads all files. Those with mistakes are left out of the checks that follow.
func (v *validation) load(kernelFile string, workerFiles []string) error {
	var errs config.Errors
	kernel, err := config.LoadKernel(kernelFile)
	switch {
	case errors.As(err, &errs):
		v.add(errs)
	case err != nil:
		return err
	default:
		v.kernel = kernel
		v.warnings = append(v.warnings, kernel.Warnings...)
	}
	for _, file := range workerFiles {
		w, err := config.LoadWorker(file)
		switch {
		case errors.As(err, &errs):
			v.add(errs)
			v.unread = true
		case err != nil:
			return err
		default:
			v.workers = append(v.workers, w)
			v.warnings = append(v.warnings, w.Warnings...)
		}
	}
	return nil
}

// matchWorkers compares names and sockets. given is how many files of workers there are, those with mistakes among them.
func (v *validation) matchWorkers(given int) {
	names := make([]string, 0, len(v.kernel.Workers))
	refs := map[string]*config.WorkerRef{}
	for i := range v.kernel.Workers {
		ref := &v.kernel.Workers[i]
		names = append(names, ref.Name)
		refs[ref.Name] = ref
	}
	seen := map[string]bool{}
	sockets := map[string]string{}
	for _, w := range v.workers {
		namePos := config.Pos{File: w.File, Path: "policy_worker.name"}
		socketPos := config.Pos{File: w.File, Path: "policy_worker.socket_path"}
		if first, taken := sockets[w.SocketPath]; taken {
			v.fail(socketPos, "%q is the socket of %s too; each worker process has its own", w.SocketPath, first)
		}
		sockets[w.SocketPath] = w.File
		seen[w.Name] = true
		ref := refs[w.Name]
		switch {
		case ref == nil && len(names) == 0:
			v.fail(namePos, "%q is not a worker of %s, which has none", w.Name, v.kernel.File)
		case ref == nil:
			v.fail(namePos, "%q is not a worker of %s; legal are %s", w.Name, v.kernel.File, strings.Join(names, ", "))
		case !slices.Contains(ref.SocketPaths, w.SocketPath):
			v.fail(socketPos, "%q is not a socket of worker %q in %s; legal are %s", w.SocketPath, w.Name, v.kernel.File, strings.Join(ref.SocketPaths, ", "))
		}
	}
	for i := range v.kernel.Workers {
		// Whose a file with mistakes is can't be known.
		if ref := &v.kernel.Workers[i]; !seen[ref.Name] && len(v.workers) == given {
			v.fail(ref.Pos, "no configuration of worker %q was given; give it with --worker FILE", ref.Name)
		}
	}
}

// checkTLS reads the kernel's certificates.
func (v *validation) checkTLS() {
	t := v.kernel.Server.TLS
	pos := func(key string) config.Pos {
		return config.Pos{File: v.kernel.File, Path: "policy_kernel.server.tls." + key}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
			v.fail(pos("cert_file"), "a file can't be read: %v", err)
		case err != nil:
			v.fail(pos("cert_file"), "%q and %q are not a certificate and its key: %v", t.CertFile, t.KeyFile, err)
		case pair.Leaf != nil && v.now().After(pair.Leaf.NotAfter):
			v.fail(pos("cert_file"), "%q: the certificate ended %s", t.CertFile, pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	if t.ClientCAFile != "" {
		data, err := os.ReadFile(t.ClientCAFile)
		switch {
		case err != nil:
			v.fail(pos("client_ca_file"), "the file can't be read: %v", err)
		case !x509.NewCertPool().AppendCertsFromPEM(data):
			v.fail(pos("client_ca_file"), "%q has no certificate; legal is PEM", t.ClientCAFile)
		}
	}
}

// checkToken reads the file with the admin token.
func (v *validation) checkToken() {
	file := v.kernel.Admin.TokenFile
	if file == "" {
		return
	}
	pos := config.Pos{File: v.kernel.File, Path: "policy_kernel.admin.token_file"}
	content, err := os.ReadFile(file)
	if err != nil {
		v.fail(pos, "the file can't be read: %v", err)
	} else if n := len(strings.TrimSpace(string(content))); n < leastToken {
		v.fail(pos, "%q has a token of %d bytes; legal are %d or more", file, n, leastToken)
	}
}

// leastToken is how long an admin token must be, in bytes.
const leastToken = 16

func (v *validation) summary(envoyFile string) string {
	policies := 0
	for i := range v.kernel.Routes {
		policies += len(v.kernel.Routes[i].Request.Chain) + len(v.kernel.Routes[i].Response.Chain)
	}
	text := fmt.Sprintf("valid: %d routes with %d policies, %d workers", len(v.kernel.Routes), policies, len(v.kernel.Workers))
	if envoyFile != "" {
		text += ", and Envoy asks the engine on all its routes"
	}
	return text
}
