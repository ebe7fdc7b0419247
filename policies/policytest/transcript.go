package policytest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/policies"
)

// exchange is one exchange of an http block: what goes in, and what is to come out.
type exchange struct {
	line     int
	request  Request
	response *Response
	// requestBody and responseBody are nil if the example does not tell of them.
	requestBody, responseBody *bodyLines
	wait                      time.Duration
	times                     int

	outcome string // the first word after "→"
	detail  string // the rest of it
	headers []policies.Header
	absent  []string
	body    string // JSON
	sent    *bodyLines
	// identity is nil if the example does not say.
	identity *identityLine
}

// identityLine is the text after "@identity": nothing, or a subject and its scopes.
type identityLine struct{ fields []string }

var (
	requestLine = regexp.MustCompile(`^[A-Z]+ [/*]\S*( HTTP/[0-9.]+)?$`)
	bodyLine    = regexp.MustCompile(`^@(body|chunk|no-body)( |$)`)
	headerLine  = regexp.MustCompile("^:?[!#$%&'*+.^_`|~0-9A-Za-z-]+:")
)

// parseExchanges reads an http block, whose first line is the README's line number first. Errors begin with the line.
func parseExchanges(text string, first int) ([]exchange, error) {
	var list []exchange
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimRight(line, " \t\r")
		var err error
		switch {
		case line == "" || strings.HasPrefix(line, "# "):
		case requestLine.MatchString(line) && (len(list) == 0 || list[len(list)-1].outcome != ""):
			fields := strings.Fields(line)
			list = append(list, exchange{line: first + i, times: 1, request: Request{Method: fields[0], Path: fields[1]}})
		case len(list) == 0:
			err = fmt.Errorf("want a request line such as \"GET /orders\", got %q", line)
		case list[len(list)-1].outcome == "":
			err = list[len(list)-1].input(line)
		default:
			err = list[len(list)-1].expectation(line)
		}
		if err != nil {
			return nil, fmt.Errorf("%d: %w", first+i, err)
		}
	}
	for _, x := range list {
		if x.outcome == "" {
			return nil, fmt.Errorf("%d: exchange without an outcome: a line that begins with \"→\" is missing", x.line)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%d: the http block is empty", first)
	}
	return list, nil
}

var outcomes = regexp.MustCompile(`^(continue( unchanged)?|skip_remaining( [a-z0-9_]+)?|error( .+)?|[2-5][0-9][0-9]( [a-z0-9_]+)?)$`)

func (x *exchange) input(line string) error {
	switch {
	case strings.HasPrefix(line, "→"):
		outcome := strings.TrimSpace(strings.TrimPrefix(line, "→"))
		if !outcomes.MatchString(outcome) {
			return fmt.Errorf("unknown outcome %q", outcome)
		}
		x.outcome, x.detail, _ = strings.Cut(outcome, " ")
	case strings.HasPrefix(line, "←"):
		status, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "←")))
		if err != nil || x.response != nil {
			return fmt.Errorf("want one line such as \"← 200\", got %q", line)
		}
		x.response = &Response{Status: status}
	case bodyLine.MatchString(line):
		to, has := &x.requestBody, &x.request.Body
		if x.response != nil {
			to, has = &x.responseBody, &x.response.Body
		}
		if err := addBody(to, line); err != nil {
			return err
		}
		*has = !(*to).none
	case strings.HasPrefix(line, "@"):
		return x.directive(strings.Fields(line))
	case !headerLine.MatchString(line):
		return fmt.Errorf("want a header line, or a line that begins with @, ← or →, got %q", line)
	case line[0] == ':':
		return x.pseudoHeader(line)
	case x.response != nil:
		x.response.Headers = append(x.response.Headers, line)
	default:
		x.request.Headers = append(x.request.Headers, line)
	}
	return nil
}

// pseudoHeader takes what the request line does not tell.
func (x *exchange) pseudoHeader(line string) error {
	switch name, value := splitLine(line); {
	case name == ":authority" && x.response == nil:
		x.request.Authority = value
	case name == ":scheme" && x.response == nil:
		x.request.Scheme = value
	default:
		return fmt.Errorf("want :authority or :scheme of a request, got %q", line)
	}
	return nil
}

func (x *exchange) directive(fields []string) (err error) {
	switch {
	case fields[0] == "@identity" && len(fields) > 1:
		x.request.Identity = &policies.Identity{Subject: fields[1], Method: "example", Scopes: fields[2:]}
	case fields[0] == "@claim" && len(fields) > 1 && x.request.Identity != nil:
		key, value, _ := strings.Cut(strings.Join(fields[1:], " "), "=")
		x.request.Identity.Claims = append(x.request.Identity.Claims, policies.Entry{Key: key, Value: value})
	case fields[0] == "@metadata" && len(fields) > 1:
		key, value, _ := strings.Cut(strings.Join(fields[1:], " "), "=")
		x.request.Metadata = append(x.request.Metadata, policies.Entry{Key: key, Value: value})
	case fields[0] == "@wait" && len(fields) == 2:
		x.wait, err = time.ParseDuration(fields[1])
	case fields[0] == "@times" && len(fields) == 2:
		x.times, err = strconv.Atoi(fields[1])
		if err == nil && x.times < 1 {
			err = fmt.Errorf("%d times", x.times)
		}
	default:
		err = fmt.Errorf("unknown line %q; legal are @identity SUBJECT SCOPE…, @claim KEY=VALUE after it, @metadata KEY=VALUE, @wait DURATION, @times N, @body TEXT, @chunk TEXT, @no-body", strings.Join(fields, " "))
	}
	return err
}

func (x *exchange) expectation(line string) error {
	switch {
	case strings.HasPrefix(line, "{"):
		x.body = line
	case strings.HasPrefix(line, "no "):
		x.absent = append(x.absent, strings.TrimPrefix(line, "no "))
	case line == "@identity" || strings.HasPrefix(line, "@identity "):
		x.identity = &identityLine{strings.Fields(line)[1:]}
	case bodyLine.MatchString(line) && !strings.HasPrefix(line, "@no-body"):
		return addBody(&x.sent, line)
	case headerLine.MatchString(line):
		name, value := splitLine(line)
		x.headers = append(x.headers, policies.Header{Name: strings.ToLower(name), Value: strings.TrimSpace(value)})
	default:
		return fmt.Errorf("want \"name: value\", \"no name\", a JSON object, @identity, @body or @chunk, got %q", line)
	}
	return nil
}

// addBody takes a line that gives a body, or a chunk of one. A text in double quotes is one of Go, with its escapes.
func addBody(to **bodyLines, line string) error {
	word, text, _ := strings.Cut(line, " ")
	if len(text) > 1 && text[0] == '"' && text[len(text)-1] == '"' {
		unquoted, err := strconv.Unquote(text)
		if err != nil {
			return fmt.Errorf("%q is not a text in double quotes as Go has them", text)
		}
		text = unquoted
	}
	if *to == nil {
		*to = &bodyLines{}
	} else if word != "@chunk" || (*to).whole || (*to).none {
		return fmt.Errorf("%s after another line of the body; legal are several of @chunk, or one of the others", word)
	}
	switch b := *to; {
	case word != "@no-body":
		b.chunks, b.whole = append(b.chunks, text), word == "@body"
	case text != "":
		return fmt.Errorf("want @no-body alone, got %q", line)
	default:
		b.none = true
	}
	return nil
}
