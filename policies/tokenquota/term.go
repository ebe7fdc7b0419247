package tokenquota

import (
	"math"

	"github.com/policy-engine/policy-engine/policies"
)

// term is a summand of the usage: the number at the first of its paths that has one, or the largest number at any of
// them, times the weight.
type term struct {
	// first and end are the indices of its paths.
	first, end int
	// weight is in thousandths.
	weight int64
	// largest: the largest number counts instead of the first.
	largest bool
}

const (
	thousand = 1000
	// maxWeight is the largest weight.
	maxWeight = 1000
)

// sum returns the usage by what was found so far, rounded up. found tells whether any term has a number.
func sum(terms []term, s *scanner) (usage int64, found bool) {
	total := int64(0)
	for _, t := range terms {
		value := int64(0)
		for i := t.first; i < t.end; i++ {
			if p := &s.Paths[i]; p.Found {
				value, found = max(value, p.Value), true
				if !t.largest {
					break
				}
			}
		}
		// No overflow: 8 terms of 10^12 times 10^6 thousandths are below 2^63.
		total += value * t.weight
	}
	return min((total+thousand-1)/thousand, maxUsage), found
}

// class is what tokens were used for, as prices distinguish it.
type class uint8

const (
	input class = iota
	output
	cacheWrite
	cacheRead
	numClasses
)

// part is a term of a provider: its class, and where its number may stand.
type part struct {
	class class
	paths []string
}

// providers are the paths of the usage in the answers of the known APIs. Where a number has several places, the
// largest counts: the numbers of a stream are cumulative, and servers that imitate an API may send 0 in a place that
// they do not use.
//
//   - openai: https://platform.openai.com/docs/api-reference/chat/object (with stream_options.include_usage in streams)
//   - openai_responses: https://platform.openai.com/docs/api-reference/responses/object
//   - anthropic: https://docs.anthropic.com/en/api/messages and …/messages-streaming
//   - gemini: https://ai.google.dev/api/generate-content#UsageMetadata
//   - bedrock: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html
//   - ollama: https://github.com/ollama/ollama/blob/main/docs/api.md
var providers = map[string][]part{
	"openai": {
		{input, []string{"usage.prompt_tokens"}},
		{output, []string{"usage.completion_tokens"}},
	},
	"openai_responses": {
		{input, []string{"response.usage.input_tokens", "usage.input_tokens"}},
		{output, []string{"response.usage.output_tokens", "usage.output_tokens"}},
	},
	"anthropic": {
		{input, []string{"usage.input_tokens", "message.usage.input_tokens"}},
		{output, []string{"usage.output_tokens", "message.usage.output_tokens"}},
		{cacheWrite, []string{"usage.cache_creation_input_tokens", "message.usage.cache_creation_input_tokens"}},
		{cacheRead, []string{"usage.cache_read_input_tokens", "message.usage.cache_read_input_tokens"}},
	},
	"gemini": {
		{input, []string{"usageMetadata.promptTokenCount"}},
		{input, []string{"usageMetadata.toolUsePromptTokenCount"}},
		{output, []string{"usageMetadata.candidatesTokenCount"}},
		{output, []string{"usageMetadata.thoughtsTokenCount"}},
	},
	"bedrock": {
		{input, []string{"usage.inputTokens"}},
		{output, []string{"usage.outputTokens"}},
		{cacheWrite, []string{"usage.cacheWriteInputTokens"}},
		{cacheRead, []string{"usage.cacheReadInputTokens"}},
	},
	"ollama": {
		{input, []string{"prompt_eval_count"}},
		{output, []string{"eval_count"}},
	},
}

// thousandths returns a weight in thousandths; param is where it stands.
func thousandths(param string, weight *float64) (int64, error) {
	if weight == nil {
		return thousand, nil
	}
	if !(*weight >= 0 && *weight <= maxWeight) {
		return 0, policies.BadParam(param, "must be from 0 to %d, got %v", maxWeight, *weight)
	}
	return int64(math.Round(*weight * thousand)), nil
}
