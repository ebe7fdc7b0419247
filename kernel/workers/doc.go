// Package workers is the registry of the Policy Workers: their replicas, what they offer, which generations they hold, and the batching client that runs calls on them.
package workers
