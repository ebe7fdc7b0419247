package tokenquota

import (
	"testing"

	"github.com/policy-engine/policy-engine/policies/policytest"
)

// TestProviders: the forms in which the APIs tell the usage, each with what it really was.
func TestProviders(t *testing.T) {
	plain := policytest.Response{Headers: []string{"content-type: application/json"}}
	stream := policytest.Response{Headers: []string{"content-type: text/event-stream"}}
	lines := policytest.Response{Headers: []string{"content-type: application/x-ndjson; charset=utf-8"}}
	const weighted = `{"provider": "anthropic", "weights": {"output": 5, "cache_creation": 1.25, "cache_read": 0.1}}`
	for name, c := range map[string]struct {
		usage  string
		r      policytest.Response
		chunks []string
		used   int
	}{
		"openai": {
			`{"provider": "openai"}`, plain,
			[]string{`{"usage":{"prompt_tokens":100,"completion_tokens":200,"total_tokens":300,"completion_tokens_details":{"reasoning_tokens":150}}}`},
			300,
		},
		"openai, embeddings": {`{"provider": "openai"}`, plain, []string{`{"data":[],"usage":{"prompt_tokens":300,"total_tokens":300}}`}, 300},
		"openai, stream": {
			`{"provider": "openai"}`, stream,
			[]string{"data: {\"usage\":null}\n\n", "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":200}}\n\ndata: [DONE]\n\n"},
			300,
		},
		"openai_responses": {`{"provider": "openai_responses"}`, plain, []string{`{"usage":{"input_tokens":100,"output_tokens":200}}`}, 300},
		"openai_responses, stream": {
			`{"provider": "openai_responses"}`, stream,
			[]string{"event: response.completed\ndata: {\"response\":{\"usage\":{\"input_tokens\":100,\"output_tokens\":200}}}\n\n"},
			300,
		},
		"anthropic": {`{"provider": "anthropic"}`, plain, []string{`{"usage":{"input_tokens":100,"output_tokens":200}}`}, 300},
		"anthropic, input in message_start": {
			`{"provider": "anthropic"}`, stream,
			[]string{
				"data: {\"message\":{\"usage\":{\"input_tokens\":100,\"output_tokens\":1}}}\n\n",
				"data: {\"usage\":{\"output_tokens\":50}}\n\ndata: {\"usage\":{\"output_tokens\":200}}\n\n",
			},
			300,
		},
		"anthropic, input in message_start and message_delta": {
			`{"provider": "anthropic"}`, stream,
			[]string{
				"data: {\"message\":{\"usage\":{\"input_tokens\":100,\"output_tokens\":1}}}\n\n",
				"data: {\"usage\":{\"input_tokens\":100,\"output_tokens\":200}}\n\n",
			},
			300,
		},
		"anthropic, input in message_delta only": {
			`{"provider": "anthropic"}`, stream,
			[]string{"data: {\"message\":{}}\n\n", "data: {\"usage\":{\"input_tokens\":100,\"output_tokens\":200}}\n\n"},
			300,
		},
		"anthropic, input 0 in message_delta": {
			`{"provider": "anthropic"}`, stream,
			[]string{
				"data: {\"message\":{\"usage\":{\"input_tokens\":60,\"cache_read_input_tokens\":40,\"output_tokens\":1}}}\n\n",
				"data: {\"usage\":{\"input_tokens\":0,\"cache_read_input_tokens\":0,\"output_tokens\":200}}\n\n",
			},
			300,
		},
		"anthropic, input 0 in message_start": {
			`{"provider": "anthropic"}`, stream,
			[]string{
				"data: {\"message\":{\"usage\":{\"input_tokens\":0,\"output_tokens\":0}}}\n\n",
				"data: {\"usage\":{\"input_tokens\":100,\"output_tokens\":200}}\n\n",
			},
			300,
		},
		"anthropic, null in message_delta": {
			`{"provider": "anthropic"}`, stream,
			[]string{
				"data: {\"message\":{\"usage\":{\"input_tokens\":100,\"output_tokens\":1}}}\n\n",
				"data: {\"usage\":{\"input_tokens\":null,\"output_tokens\":200}}\n\n",
			},
			300,
		},
		"anthropic, hung up": {
			`{"provider": "anthropic"}`, stream, []string{"data: {\"message\":{\"usage\":{\"input_tokens\":290,\"output_tokens\":1}}}\n\n", "…"}, 291,
		},
		"anthropic, cache": {
			`{"provider": "anthropic"}`, plain,
			[]string{`{"usage":{"input_tokens":110,"cache_creation_input_tokens":40,"cache_read_input_tokens":50,"output_tokens":100}}`},
			300,
		},
		"anthropic, cache with weights": {
			weighted, plain, []string{`{"usage":{"input_tokens":100,"cache_creation_input_tokens":40,"cache_read_input_tokens":55,"output_tokens":10}}`}, 206, // 205.5
		},
		"gemini": {
			`{"provider": "gemini"}`, plain,
			[]string{`{"usageMetadata":{"promptTokenCount":100,"candidatesTokenCount":120,"thoughtsTokenCount":80,"totalTokenCount":300}}`},
			300,
		},
		"gemini, a list that streams": {
			`{"provider": "gemini"}`, plain,
			[]string{
				`[{"candidates":[{}],"usageMetadata":{"promptTokenCount":100,"candidatesTokenCount":2}}`,
				"\n,\r\n{\"usageMetadata\":{\"promptTokenCount\":100,\"candidatesTokenCount\":200}}", "]",
			},
			300,
		},
		"gemini, events": {
			`{"provider": "gemini"}`, stream,
			[]string{"data: {\"usageMetadata\":{\"promptTokenCount\":100}}\r\n\r\ndata: {\"usageMetadata\":{\"promptTokenCount\":100,\"candidatesTokenCount\":200}}\r\n\r\n"},
			300,
		},
		"bedrock": {
			`{"provider": "bedrock"}`, plain,
			[]string{`{"usage":{"inputTokens":100,"outputTokens":150,"cacheReadInputTokens":30,"cacheWriteInputTokens":20,"totalTokens":300}}`},
			300,
		},
		"bedrock, a binary stream": {
			`{"provider": "bedrock"}`,
			policytest.Response{Headers: []string{"content-type: application/vnd.amazon.eventstream"}},
			[]string{"\x00\x00\x00\x60\x00\x00\x00\x10{\"usage\":{\"inputTokens\":1,\"outputTokens\":1}}"},
			100,
		},
		"ollama": {`{"provider": "ollama"}`, plain, []string{`{"done":true,"prompt_eval_count":100,"eval_count":200}`}, 300},
		"ollama, lines": {
			`{"provider": "ollama"}`, lines,
			[]string{"{\"response\":\"a\"}\n{\"response\":\"b\"", ",\"done\":false}\r\n{\"done\":true,\"prompt_eval_count\":100,\"eval_", "count\":200}\n"},
			300,
		},
		"ollama, the last line without its end": {
			`{"provider": "ollama"}`, lines, []string{"{\"done\":false}\nnonsense\n{\"prompt_eval_count\":100,\"eval_count\":200}"}, 300,
		},
		"first of": {
			`{"terms": [{"first_of": ["b", "a"], "weight": 2}, {"first_of": ["c"]}]}`, plain, []string{`{"a":500,"b":100,"c":100}`}, 300,
		},
		"first of, none":   {`{"terms": [{"first_of": ["b", "a"]}]}`, plain, []string{`{"c":500}`}, 100},
		"weight of zero":   {`{"terms": [{"first_of": ["a"], "weight": 0}]}`, plain, []string{`{"a":500}`}, 0},
		"part of a token":  {`{"terms": [{"first_of": ["a"], "weight": 0.001}]}`, plain, []string{`{"a":1}`}, 1},
		"beyond all bound": {`{"terms": [{"first_of": ["a"], "weight": 1000}]}`, plain, []string{`{"a":99999999999999999999}`}, maxUsage},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.usage, `{"tokens": 1000, "per": "1h", "estimate": 100}`)
			w.answer(t, c.r, c.chunks...)
			if c.used > 900 {
				if _, got := w.request(t, "alice"); got.Continued() {
					t.Error("nothing is owed")
				}
				return
			}
			if left := w.left(t, 100); left != 1000-c.used {
				t.Errorf("%d were charged, want %d", 1000-left, c.used)
			}
		})
	}
}
