package tokenquota

import (
	"errors"
	"fmt"
	"maps"
	"slices"
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

// UsageParams are the parameters of tokenUsage. One of Provider, Paths and Terms says where the usage stands.
type UsageParams struct {
	Provider   string   `json:"provider,omitempty" jsonschema:"enum=openai,enum=openai_responses,enum=anthropic,enum=gemini,enum=bedrock,enum=ollama,description=The API whose answers tell the usage."`
	Weights    Weights  `json:"weights,omitempty" jsonschema:"description=What tokens count for; with provider."`
	Paths      []string `json:"paths,omitempty" jsonschema:"description=Where in the JSON of the answer the used tokens stand; the numbers at several paths are added up. Default: usage.total_tokens."`
	Terms      []Term   `json:"terms,omitempty" jsonschema:"description=What is added up, where that is more than paths can say."`
	FreeErrors bool     `json:"free_errors,omitempty" jsonschema:"default=false,description=Give the estimate back when the status is 400 or more and the answer tells no usage."`
}

// Weights are what a token counts for, by what it was used for. Without a weight it counts for one.
type Weights struct {
	Input         *float64 `json:"input,omitempty" jsonschema:"minimum=0,maximum=1000,description=Of the prompt."`
	Output        *float64 `json:"output,omitempty" jsonschema:"minimum=0,maximum=1000,description=Of the answer."`
	CacheCreation *float64 `json:"cache_creation,omitempty" jsonschema:"minimum=0,maximum=1000,description=Of the prompt and written to the provider's cache."`
	CacheRead     *float64 `json:"cache_read,omitempty" jsonschema:"minimum=0,maximum=1000,description=Of the prompt and read from the provider's cache."`
}

// Term is a summand of the usage.
type Term struct {
	FirstOf []string `json:"first_of" jsonschema:"required,description=Paths of which the first counts that has a number."`
	Weight  *float64 `json:"weight,omitempty" jsonschema:"minimum=0,maximum=1000,description=What a token counts for. Default: 1."`
}

// Defaults sets what the configuration leaves out.
func (p *UsageParams) Defaults() { *p = UsageParams{} }

// check returns the terms and their paths, or all that is wrong with the parameters.
func (p *UsageParams) check() ([]term, []path, error) {
	b := builder{seen: make(map[string]bool)}
	given := 0
	for _, is := range []bool{p.Provider != "", p.Paths != nil, p.Terms != nil} {
		if is {
			given++
		}
	}
	if given > 1 {
		b.bad("provider", "stands beside others, expected one of provider, paths and terms")
	}
	switch {
	case p.Provider != "":
		b.provider(p)
	case p.Terms != nil:
		b.count("terms", len(p.Terms))
		for i, t := range p.Terms {
			at := fmt.Sprintf("terms[%d]", i)
			if len(t.FirstOf) == 0 {
				b.bad(at+".first_of", "has no path, expected at least one")
			}
			b.term(at+".first_of", at+".weight", t.FirstOf, t.Weight)
		}
	case p.Paths != nil:
		b.count("paths", len(p.Paths))
		for i, text := range p.Paths {
			b.list(fmt.Sprintf("paths[%d]", i), []string{text}, thousand)
		}
	default:
		b.list("paths", []string{"usage.total_tokens"}, thousand)
	}
	if p.Provider == "" && p.Weights != (Weights{}) {
		b.bad("weights", "stands without provider, expected with it; a term has a weight of its own")
	}
	if len(b.paths) > maxPaths {
		b.bad("terms", "have %d paths together, expected at most %d", len(b.paths), maxPaths)
	}
	return b.terms, b.paths, errors.Join(b.problems...)
}

// builder makes terms, and gathers what is wrong with them.
type builder struct {
	terms    []term
	paths    []path
	seen     map[string]bool
	problems []error
}

func (b *builder) bad(param, format string, args ...any) {
	b.problems = append(b.problems, policies.BadParam(param, format, args...))
}

func (b *builder) count(param string, n int) {
	if n == 0 || n > maxPaths {
		b.bad(param, "must have 1 to %d elements, got %d", maxPaths, n)
	}
}

// provider takes the terms of a provider with the weights of the parameters.
func (b *builder) provider(p *UsageParams) {
	parts, known := providers[p.Provider]
	if !known {
		b.bad("provider", "unknown value %q, expected %s", p.Provider, strings.Join(slices.Sorted(maps.Keys(providers)), ", "))
		return
	}
	weights := [numClasses]struct {
		param string
		given *float64
	}{{"weights.input", p.Weights.Input}, {"weights.output", p.Weights.Output}, {"weights.cache_creation", p.Weights.CacheCreation}, {"weights.cache_read", p.Weights.CacheRead}}
	var used [numClasses]bool
	var of [numClasses]int64
	for i, w := range weights {
		weight, err := thousandths(w.param, w.given)
		if err != nil {
			b.problems = append(b.problems, err)
		}
		of[i] = weight
	}
	for _, part := range parts {
		used[part.class] = true
		b.list("provider", part.paths, of[part.class])
		b.terms[len(b.terms)-1].largest = true
	}
	for i, w := range weights {
		if w.given != nil && !used[i] {
			b.bad(w.param, "%s does not tell these tokens apart", p.Provider)
		}
	}
}

func (b *builder) term(param, weightParam string, texts []string, given *float64) {
	weight, err := thousandths(weightParam, given)
	if err != nil {
		b.problems = append(b.problems, err)
	}
	b.list(param, texts, weight)
}

// list adds a term.
func (b *builder) list(param string, texts []string, weight int64) {
	t := term{first: len(b.paths), end: len(b.paths) + len(texts), weight: weight}
	for i, text := range texts {
		at := param
		if len(texts) > 1 || strings.HasSuffix(param, "first_of") {
			at = fmt.Sprintf("%s[%d]", param, i)
		}
		names := strings.Split(text, ".")
		legal := len(names) <= maxNames && !b.seen[text]
		for _, name := range names {
			legal = legal && name != "" && len(name) <= maxName && strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
		}
		if !legal {
			b.bad(at, "%q is not legal; legal are 1 to %d names of ASCII characters with dots between them, such as usage.total_tokens, each path once", text, maxNames)
		}
		b.seen[text] = true
		b.paths = append(b.paths, names)
	}
	b.terms = append(b.terms, t)
}

// maxName is in bytes.
const maxName = 64
