// Package route holds the immutable route table, the execution plans that are compiled from the configuration, and the atomic swap from one table to the next.
package route
