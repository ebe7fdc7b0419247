package telemetry

import "strings"

// meanings are what the metrics count. docs/metrics.md tells more.
var meanings = map[string]string{
	kernelBuildInfo: "Always 1: which build the kernel is.",
	workerBuildInfo: "Always 1: which build a replica is.",

	"policy_kernel_requests_total":                        "HTTP requests, by what their policies decided.",
	"policy_kernel_request_duration_seconds":              "From the arrival of a request's headers to the decision on it.",
	"policy_kernel_response_failures_total":               "Response phases that did anything but allow.",
	"policy_kernel_tolerated_failures_total":              "Failures that an on_failure of continue or skip_remaining let pass.",
	"policy_kernel_decisions_total":                       "Decisions that are not a plain allow, by the policy that made them and its reason.",
	"policy_kernel_worker_health":                         "1 while a replica of the worker takes calls and has the configuration, else 0.",
	"policy_kernel_worker_replica_up":                     "1 while the replica takes calls, else 0.",
	"policy_kernel_worker_calls_in_flight":                "Calls that the replica has not answered yet.",
	"policy_kernel_worker_calls_waiting":                  "Calls that wait for room now.",
	"policy_kernel_worker_queued_total":                   "Calls that have waited for room.",
	"policy_kernel_worker_queue_refusals_total":           "Calls that were refused for want of room, by why.",
	"policy_kernel_worker_batch_calls":                    "Calls in each batch that is sent to the worker.",
	"policy_kernel_worker_batch_results":                  "Results in each read from the worker.",
	"policy_kernel_worker_unmatched_results_total":        "Results without a call: late, repeated or invented.",
	"policy_kernel_worker_breaker_state":                  "The circuit breaker of the replica: 0 closed, 1 half open, 2 open.",
	"policy_kernel_config_reload_total":                   "Attempts to take over a changed configuration.",
	"policy_kernel_config_generation":                     "Which table of routes is in use: each has a higher number than the one before.",
	"policy_kernel_config_last_reload_successful":         "0 if the configuration file was not taken over the last time, else 1.",
	"policy_kernel_config_last_success_timestamp_seconds": "When the configuration in use was taken over, or found unchanged, last.",
	"policy_kernel_policy_conflicts":                      "Policies that a second worker name offers too; its offer is ignored.",
	"policy_kernel_streams":                               "Streams of Envoy's that are open: requests under way.",
	"policy_kernel_connections":                           "Connections that are open, by listener.",
	"policy_kernel_connections_ended_total":               "Connections that the kernel refused or ended, by listener and reason.",
	"policy_kernel_connection_memory_bytes":               "Bytes that the connections of Envoy hold of messages, answers and streams.",
	"policy_kernel_memory_refusals_total":                 "Streams and messages that were refused because the memory for connections is used up.",
	"policy_kernel_body_bytes":                            "Bytes that bodies take now.",
	"policy_kernel_panics_total":                          "Panics that were caught; each denied a request.",
	"policy_kernel_log_records_lost_total":                "Log records that were lost because the log was too slow or could not be written.",
	"policy_kernel_trace_spans_total":                     "Spans that were handed to the exporter.",
	"policy_kernel_trace_spans_dropped_total":             "Spans that were lost: the queue was full, or the receiver did not take them.",
	"policy_worker_executions_total":                      "Runs of policies, by how they ended.",
	"policy_worker_execution_duration_seconds":            "How long a policy ran.",
	"policy_worker_policy_failures_total":                 "Failures of policies; of policy none: calls that the worker refused.",
	"policy_worker_policy_events_total":                   "What policies count themselves, such as the hits of a cache.",
	"policy_worker_slow_inline_runs_total":                "Inline runs of policies that took 10 ms or more.",
	"policy_worker_stuck_policies_total":                  "Inline policies that did not return within 5 s.",
	"policy_worker_connections_refused_total":             "Connections to the worker's socket of processes that run as other users.",
	"policy_worker_panics_total":                          "Panics of the worker itself that were caught; those of policies are failures of theirs.",
	"policy_worker_api_keys":                              "API keys of the key store, by whether they are valid now.",
	"policy_worker_api_keys_age_seconds":                  "Time since the key store's keys were loaded.",
	"policy_worker_api_keys_broken_seconds":               "How long the key store's file could not be loaded; 0 if the keys in use are those of the file.",
	"policy_worker_api_keys_failures_total":               "Contents of the key store's file that could not be loaded.",
	"policy_worker_jwt_keys":                              "Keys of the issuer that can verify tokens.",
	"policy_worker_jwt_keys_loaded":                       "1 once the issuer's key set was loaded, else 0.",
	"policy_worker_jwt_keys_failures_total":               "Fetches and loads of the issuer's key set that failed.",
	"policy_worker_jwt_keys_age_seconds":                  "Time since the issuer's key set was last fetched.",
	"policy_worker_in_flight":                             "Calls that run or wait.",
	"policy_worker_generations":                           "Configurations that the worker holds.",
	"policy_worker_log_records_lost_total":                "Log records that were lost because the log was too slow or could not be written.",
	"policy_worker_trace_spans_total":                     "Spans that were handed to the exporter.",
	"policy_worker_trace_spans_dropped_total":             "Spans that were lost: the queue was full, or the receiver did not take them.",
	"policy_kernel_worker_retries_total":                  "Further attempts of calls that came to nothing on a replica, or wait for long, by why.",
}

// meaning is what a metric counts, or nothing if nobody knows.
func meaning(metric string) string {
	if text := meanings[metric]; text != "" {
		return text
	}
	if rest, ok := strings.CutPrefix(metric, "go_"); ok {
		return "Of the Go runtime: " + strings.ReplaceAll(rest, "_", " ") + "."
	}
	if rest, ok := strings.CutPrefix(metric, "process_"); ok {
		return "Of the process: " + strings.ReplaceAll(rest, "_", " ") + "."
	}
	return ""
}
