// Package hop measures the way from the kernel to a worker and back, and what the worker does in between, with both in one process.
package hop
