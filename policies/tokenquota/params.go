package tokenquota

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/ratelimit/bucket"
)

// Params are the parameters of tokenQuota.
type Params struct {
	Tokens   int64             `json:"tokens" jsonschema:"required,minimum=1,maximum=1000000000,description=How many tokens a client may use in the time of per."`
	Per      policies.Duration `json:"per" jsonschema:"required,description=The time that tokens counts for; from 1ms to 8784h."`
	Burst    *int64            `json:"burst,omitempty" jsonschema:"minimum=1,maximum=1000000000,description=How many tokens a client that was quiet may use at once. Default: as many as tokens."`
	Estimate int64             `json:"estimate" jsonschema:"required,minimum=1,maximum=1000000000,description=How many tokens a request is charged with until its usage is known; and if it never is."`
	Key      bucket.Param      `json:"key,omitempty" jsonschema:"default=identity,description=What makes two requests those of one client: identity or client_ip or route or header:NAME; several of them under all; or a list of which the first counts that the request has."`
}

// Defaults sets what the configuration leaves out.
func (p *Params) Defaults() { *p = Params{Key: bucket.Param{{"identity"}}} }

// check returns the parameters as the policy uses them, or all that is wrong with them.
func (p *Params) check() (bucket.Rate, *bucket.Client, error) {
	var problems []error
	bad := func(param, format string, args ...any) {
		problems = append(problems, policies.BadParam(param, format, args...))
	}
	within := func(param string, value int64) {
		if value < 1 || value > bucket.MaxRequests {
			bad(param, "%d is not legal; legal are 1 to %d", value, bucket.MaxRequests)
		}
	}
	within("tokens", p.Tokens)
	within("estimate", p.Estimate)
	if per := time.Duration(p.Per); per < bucket.MinPer || per > bucket.MaxPer {
		bad("per", "%v is not legal; legal are 1ms to 8784h", per)
	}
	burst := p.Tokens
	if p.Burst != nil {
		burst = *p.Burst
		within("burst", burst)
	}
	if burst >= 1 && p.Estimate > burst {
		bad("estimate", "%d is more than burst, which is %d: no request would ever be admitted", p.Estimate, burst)
	}
	client, wrong := p.Key.Client()
	problems = append(problems, wrong...)
	if len(problems) > 0 {
		return bucket.Rate{}, nil, errors.Join(problems...)
	}
	rate, ok := bucket.NewRate(p.Tokens, int64(p.Per), burst, p.Estimate)
	if !ok {
		return bucket.Rate{}, nil, policies.BadParam("burst", "%d takes longer than %.0f years to fill up again", burst, bucket.MaxFull.Hours()/24/365)
	}
	return rate, client, nil
}

// UsageParams are the parameters of tokenUsage.
type UsageParams struct {
	Paths      []string `json:"paths,omitempty" jsonschema:"description=Where in the JSON of the answer the used tokens stand; the numbers at several paths are added up. Default: usage.total_tokens."`
	FreeErrors bool     `json:"free_errors,omitempty" jsonschema:"default=false,description=Give the estimate back when the status is 400 or more and the answer tells no usage."`
}

// Defaults sets what the configuration leaves out.
func (p *UsageParams) Defaults() { *p = UsageParams{Paths: []string{"usage.total_tokens"}} }

func (p *UsageParams) check() ([]path, error) {
	if len(p.Paths) == 0 || len(p.Paths) > maxPaths {
		return nil, policies.BadParam("paths", "there are %d; legal are 1 to %d", len(p.Paths), maxPaths)
	}
	var paths []path
	var problems []error
	seen := map[string]bool{}
	for i, text := range p.Paths {
		names := strings.Split(text, ".")
		legal := len(names) <= maxNames && !seen[text]
		for _, name := range names {
			legal = legal && name != "" && len(name) <= maxName && strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
		}
		if !legal {
			problems = append(problems, policies.BadParam(fmt.Sprintf("paths[%d]", i), "%q is not legal; legal are 1 to %d names of ASCII characters with dots between them, such as usage.total_tokens, each path once", text, maxNames))
		}
		seen[text] = true
		paths = append(paths, names)
	}
	return paths, errors.Join(problems...)
}

// maxName is in bytes.
const maxName = 64
