package burst

import (
	"encoding/json"
	"fmt"
	"strings"
)

// ReasonHeader is where Envoy puts the flags and details of an answer that is its own; see ReasonFormat.
const ReasonHeader = "x-envoy-reason"

// ReasonFormat is the value of ReasonHeader in Envoy's format of access logs.
const ReasonFormat = "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%"

// Who has ended a request.
const (
	ByKernel     = "kernel"     // its body has a code of the kernel
	ByEnvoy      = "envoy"      // an answer of Envoy without such a code
	ByUpstream   = "upstream"   // any other answer
	ByReset      = "reset"      // RST_STREAM
	ByConnection = "connection" // the connection ended with all its requests
	ByTime       = "time"       // there was no answer in time
)

// uncheckedResponse is the reason of an answer of the upstream without the work of the response flow.
const uncheckedResponse = "response flow did not run"

// Outcome is how a request ended.
type Outcome struct {
	// Status of the answer; empty without one.
	Status string `json:"status,omitempty"`
	By     string `json:"by"`
	// Flags are Envoy's response flags, if it said them.
	Flags string `json:"flags,omitempty"`
	// Reason is the kernel's code, Envoy's details, or what else is known.
	Reason string `json:"reason,omitempty"`
}

// answered reports whether the upstream's answer has come, and the response flow has run.
func (o Outcome) answered() bool { return o == Outcome{Status: "200", By: ByUpstream} }

// String describes the outcome in a line.
func (o Outcome) String() string {
	parts := []string{o.Status, "by", o.By, o.Reason}
	if o.Flags != "" && o.Flags != "-" {
		parts = append(parts, "flags "+o.Flags)
	}
	return strings.Join(strings.Fields(strings.Join(parts, " ")), " ")
}

// outcomeOf reads an answer.
func outcomeOf(status, reason string, body []byte) Outcome {
	o := Outcome{Status: status, By: ByUpstream}
	flags, details, local := strings.Cut(reason, " ")
	if local {
		o.By, o.Flags, o.Reason = ByEnvoy, flags, details
	}
	if status == "200" {
		return o
	}
	var refusal struct{ Code string }
	switch err := json.Unmarshal(body, &refusal); {
	case err == nil && refusal.Code != "":
		o.By, o.Reason = ByKernel, refusal.Code
	case !local:
		o.Reason = strings.TrimSpace(string(body))
	}
	return o
}

// Loss is a number of requests that were lost in the same way.
type Loss struct {
	Count int `json:"count"`
	// Phase is "request" when they ended before the upstream answered, otherwise "response".
	Phase string `json:"phase"`
	Outcome
}

// String describes the loss in a line.
func (l Loss) String() string { return fmt.Sprintf("%d × %v (%s phase)", l.Count, l.Outcome, l.Phase) }
