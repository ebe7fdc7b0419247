// Package compose tests the files of docker-compose.yaml, as far as that goes without Docker.
package compose
