// Command policyctl is the operator's tool: it checks configurations, prints the Envoy configuration that fits, and makes keys and tokens.
package main

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// version is set by the linker.
var version = "unknown"

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1 // what was asked could not be done
	exitUsage  = 2 // wrong arguments, or mistakes in a checked file
)

// program is a run of policyctl with all of the world that it touches.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
	random         io.Reader
}

// command is a subcommand.
type command struct {
	name, summary string
	run           func(p *program, args []string) error
}

func commands() []command {
	return []command{
		{"validate", "check the configuration files of kernel and workers against each other, and Envoy's", (*program).validate},
		{"diff", "show what a reload of the kernel's configuration would change", (*program).diff},
		{"envoy", "print the Envoy configuration that fits the kernel's", (*program).envoy},
		{"explain", "print what a running kernel does with the requests of a route", (*program).explain},
		{"keys", "make API keys and their entries for a key file", (*program).keys},
		{"jwks", "show for each key of a key set whether tokens are verified with it", (*program).jwks},
		{"token", "sign tokens as the demo's issuer", (*program).token},
		{"schema", "print the JSON Schema of a configuration file", (*program).schema},
		{"version", "print the version", (*program).version},
	}
}

func main() {
	p := &program{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, now: time.Now, random: rand.Reader}
	os.Exit(p.run(os.Args[1:]))
}

// usageError is a mistake in the arguments.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func badUsage(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// mistakes are what is wrong with checked files, one line each.
type mistakes []string

func (m mistakes) Error() string { return strings.Join(m, "\n") }

// run runs the subcommand that args name, and returns the exit status.
func (p *program) run(args []string) int {
	err := p.dispatch("policyctl", commands(), args)
	var bad usageError
	var found mistakes
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errDiffers):
		return exitFailed
	case errors.As(err, &found):
		fmt.Fprintln(p.stderr, err)
		return exitUsage
	case errors.As(err, &bad):
		fmt.Fprintf(p.stderr, "policyctl: %v\n", err)
		return exitUsage
	default:
		fmt.Fprintf(p.stderr, "policyctl: %v\n", err)
		return exitFailed
	}
}

// dispatch runs the command that is named first in args, or prints what there is.
func (p *program) dispatch(name string, list []command, args []string) error {
	if len(args) == 0 {
		p.printCommands(p.stderr, name, list)
		return badUsage("a command is missing; legal are %s", commandNames(list))
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		if len(args) > 1 {
			return p.dispatch(name, list, append(args[1:], "--help"))
		}
		p.printCommands(p.stdout, name, list)
		return nil
	case "--version":
		return p.version(nil)
	}
	for _, c := range list {
		if c.name == args[0] {
			return c.run(p, args[1:])
		}
	}
	return badUsage("unknown command %q; legal are %s", args[0], commandNames(list))
}

func commandNames(list []command) string {
	names := make([]string, 0, len(list)+1)
	for _, c := range list {
		names = append(names, c.name)
	}
	return strings.Join(append(names, "help"), ", ")
}

func (p *program) printCommands(w io.Writer, name string, list []command) {
	fmt.Fprintf(w, "usage: %s COMMAND [FLAGS]\n\n", name)
	for _, c := range list {
		fmt.Fprintf(w, "  %-10s %s\n", c.name, c.summary)
	}
	fmt.Fprintf(w, "\n%s COMMAND --help tells of a command's flags. Exit status: 0 done, 1 it could not be done, 2 wrong arguments or mistakes found.\n", name)
}

// flags makes the flag set of a command; synopsis is the line after "usage: ".
func (p *program) flags(synopsis, about string) *flag.FlagSet {
	f := flag.NewFlagSet("", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {
		fmt.Fprintf(p.stdout, "usage: %s\n\n%s\n\n", synopsis, about)
		f.SetOutput(p.stdout)
		f.PrintDefaults()
		f.SetOutput(io.Discard)
	}
	return f
}

// parse parses the flags of a command that takes nothing but flags.
func parse(f *flag.FlagSet, args []string) error {
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return badUsage("%v; --help lists the flags", err)
	case f.NArg() > 0:
		return badUsage("unknown argument %q; --help lists the flags", f.Arg(0))
	}
	return nil
}

// list is a flag that may come several times.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	*l = append(*l, s)
	return nil
}

func (p *program) version(args []string) error {
	if err := parse(p.flags("policyctl version", "Prints the version."), args); err != nil {
		return err
	}
	_, err := fmt.Fprintln(p.stdout, version)
	return err
}
