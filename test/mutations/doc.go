// Package mutations feeds the same changes and answers to both checks: that of the worker, of what a policy sets, and that of the kernel, of what a worker sends.
package mutations
