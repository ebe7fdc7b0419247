package extproc

import (
	"bytes"
	"encoding/json"
	"html"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/view"
)

const (
	problemType = "application/problem+json"
	// maxNamed is how often the type is looked at in one request.
	maxNamed = 8
)

// problem is what RFC 9457 section 3 calls a problem details object. Its type is about:blank, so title is the status phrase (section 4.2.1).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Code   string `json:"code"`
}

// form returns a refusal in the form that the configuration, or the client by its Accept header, asks for. It is not ok for a refusal
// that stays as it is: one with a body of a policy's or an operator's own, and one for a client of gRPC.
func (m *Machine) form(status int, body []byte) (contentType string, formed []byte, ok bool) {
	terms := m.refusals()
	if status < 400 || terms.Format == config.RefusalJSON && len(terms.Templates) == 0 {
		return "", nil, false
	}
	message, code, ok := messageOf(body)
	if !ok || m.isGRPC() {
		return "", nil, false
	}
	for i := range terms.Templates {
		if t := &terms.Templates[i]; t.Status == status {
			return t.ContentType, fill(t, message, code), true
		}
	}
	if terms.Format == config.RefusalJSON || terms.Format != config.RefusalProblemJSON && !m.acceptsProblem() {
		return "", nil, false
	}
	formed, err := json.Marshal(problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: message, Code: code})
	return problemType, formed, err == nil
}

// refusals are those of the table; none if there is none yet.
func (m *Machine) refusals() config.Refusals {
	if m.table == nil {
		return config.Refusals{}
	}
	return m.table.Terms().Refusals
}

// fill fills in the placeholders of a template. What is filled in is escaped as the media type needs it.
func fill(t *config.RefusalTemplate, message, code string) []byte {
	title := http.StatusText(t.Status)
	mediaType, _, _ := strings.Cut(strings.ToLower(t.ContentType), ";")
	switch mediaType = strings.TrimSpace(mediaType); {
	case mediaType == "application/json" || strings.HasSuffix(mediaType, "+json"):
		quoted, err := json.Marshal(message)
		if err != nil {
			quoted = []byte(`""`)
		}
		message = string(quoted[1 : len(quoted)-1])
	case mediaType == "text/html" || strings.HasSuffix(mediaType, "xml"):
		message, title = html.EscapeString(message), html.EscapeString(title)
	}
	return []byte(strings.NewReplacer(
		"{{status}}", strconv.Itoa(t.Status), "{{title}}", title, "{{code}}", code, "{{message}}", message,
	).Replace(t.Body))
}

// acceptsProblem reports whether the Accept header of the request (RFC 9110 section 12.5.1) names application/problem+json.
func (m *Machine) acceptsProblem() bool {
	fields, named := m.requestFields(), 0
	for i := range fields {
		if string(fields[i].Name) != "accept" {
			continue
		}
		for item := range bytes.SplitSeq(fields[i].Value, []byte{','}) {
			// Fast path: most clients name others, and long lists must cost little.
			item = bytes.Trim(item, " \t")
			if len(item) < len(problemType) || !bytes.EqualFold(item[:len(problemType)], view.Bytes(problemType)) {
				continue
			}
			if named++; named > maxNamed {
				return false
			}
			mediaType, params, err := mime.ParseMediaType(view.String(item))
			if err != nil || mediaType != problemType {
				continue
			}
			weight, weighed := params["q"]
			if q, err := strconv.ParseFloat(weight, 64); !weighed || err == nil && q > 0 {
				return true
			}
		}
	}
	return false
}
