package main

import (
	"errors"
	"flag"
	"fmt"
	"net/url"
	"strings"
)

// defaultAdmin is the kernel on this machine.
const defaultAdmin = "http://127.0.0.1:9090"

// routesPage is the kernel's /routes.
type routesPage struct {
	Generation uint64       `json:"generation"`
	Routes     []shownRoute `json:"routes"`
}

type shownRoute struct {
	Name         string    `json:"name"`
	Request      shownFlow `json:"request"`
	Response     shownFlow `json:"response"`
	Unsupported  []string  `json:"unsupported"`
	Undiscovered bool      `json:"undiscovered"`
}

type shownFlow struct {
	Body      string      `json:"body"`
	CodedBody string      `json:"coded_body"`
	Headers   []shownCall `json:"on_headers"`
	Bodies    []shownCall `json:"on_body"`
	Trailers  []shownCall `json:"on_trailers"`
}

type shownCall struct {
	Worker   string `json:"worker"`
	Timeout  string `json:"timeout"`
	Required bool   `json:"required"`
	Policies []struct {
		Name      string `json:"name"`
		OnFailure string `json:"on_failure"`
	} `json:"policies"`
}

func (p *program) explain(args []string) error {
	var admin, tokenFile string
	f := p.flags("policyctl explain [FLAGS] ROUTE",
		"Prints what a running kernel does with the requests of a route: which worker runs which policies in which phase,\nwhat a failure of each means, and in what form bodies are asked for.")
	f.StringVar(&admin, "admin", defaultAdmin, "the `URL` of the kernel's guarded pages, or unix:PATH of their socket")
	f.StringVar(&tokenFile, "token-file", "", "a `file` with the admin token; else $"+tokenVariable+" is used, if it is set")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return badUsage("%v; --help lists the flags", err)
	case f.NArg() != 1:
		return badUsage("%d routes are given; legal is one", f.NArg())
	}
	var page routesPage
	if err := p.askAdmin(admin, tokenFile, "/routes?name="+url.QueryEscape(f.Arg(0)), &page); err != nil {
		return err
	}
	if len(page.Routes) != 1 {
		return fmt.Errorf("the kernel knows %d routes %q", len(page.Routes), f.Arg(0))
	}
	_, err := fmt.Fprint(p.stdout, page.Routes[0].text())
	return err
}

// text is the route's plan in words.
func (r *shownRoute) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "route %s\n", r.Name)
	switch {
	case len(r.Unsupported) > 0:
		fmt.Fprintf(&b, "  refuses all requests: no worker offers %s\n", strings.Join(r.Unsupported, ", "))
	case r.Undiscovered:
		b.WriteString("  refuses all requests: a worker has not told yet what it offers\n")
	default:
		r.Request.text(&b, "request")
		r.Response.text(&b, "response")
	}
	return b.String()
}

func (f *shownFlow) text(b *strings.Builder, flow string) {
	if len(f.Headers)+len(f.Bodies)+len(f.Trailers) == 0 {
		fmt.Fprintf(b, "  %s: no policies\n", flow)
		return
	}
	fmt.Fprintf(b, "  %s: body %s", flow, f.Body)
	if f.CodedBody != f.Body {
		fmt.Fprintf(b, ", with a content coding %s", f.CodedBody)
	}
	b.WriteString("\n")
	for _, phase := range []struct {
		name  string
		calls []shownCall
	}{{"headers", f.Headers}, {"body", f.Bodies}, {"trailers", f.Trailers}} {
		for _, c := range phase.calls {
			var names []string
			for _, p := range c.Policies {
				names = append(names, p.Name+" (on failure "+p.OnFailure+")")
			}
			fmt.Fprintf(b, "    %s: %s runs %s, within %s", phase.name, c.Worker, strings.Join(names, ", "), c.Timeout)
			if c.Required {
				b.WriteString("; without it, requests are refused")
			}
			b.WriteString("\n")
		}
	}
}
