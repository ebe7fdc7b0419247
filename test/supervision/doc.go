// Package supervision tests deploy/container/supervise.py, process 1 of the container, with small programs in the engine's place. make container-test has the whole container.
package supervision
