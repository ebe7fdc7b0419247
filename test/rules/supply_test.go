package rules

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSupply(t *testing.T) {
	dir := root(t)
	seen := make(map[string]bool)
	for _, name := range files(t, dir) {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if os.IsNotExist(err) {
			continue // Deleted, and not committed yet.
		}
		if err != nil {
			t.Fatal(err)
		}
		seen[name] = true
		for _, problem := range CheckSupply(name, content) {
			t.Error(problem)
		}
	}
	for _, name := range []string{"Dockerfile", "docker-compose.yaml", "tools/fetch.sh", "tools/requirements-envoy.txt", "tools/requirements-supervisor.txt"} {
		if !seen[name] {
			t.Errorf("%s was not looked at", name)
		}
	}
}

func TestSupplyRulesCanFail(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	for _, tt := range []struct {
		name, file, content string
		want                int
	}{
		{"hashes", "tools/requirements-x.txt", "# x\nx==1.0 \\\n    --hash=sha256:" + hash + " \\\n    --hash=sha256:" + hash + "\n", 0},
		{"no hash", "tools/requirements-x.txt", "x==1.0\n", 1},
		{"no version", "tools/requirements-x.txt", "x --hash=sha256:" + hash + "\n", 1},
		{"a weak hash", "tools/requirements-x.txt", "x==1.0 --hash=md5:" + hash + "\n", 1},
		{"a hash of one of two", "requirements.txt", "x==1.0 --hash=sha256:" + hash + "\ny==1.0\n", 1},
		{"an option", "requirements.txt", "--trusted-host x\n", 1},
		{"installs with hashes", "a.sh", "python -m pip install --require-hashes \\\n  -r \"$file\"\n", 0},
		{"installs a name", "a.sh", "python -m pip install x==1.0\n", 1},
		{"installs from a list without hashes", "a.sh", "pip3 install -r x.txt\n", 1},
		{"installs in an image", "Dockerfile", "RUN apk add x && \\\n    pip install supervisor\n", 1},
		{"an argument", "Dockerfile", "FROM ${BASE_IMAGE} AS a\nFROM a AS b\n", 0},
		{"a digest", "Dockerfile", "FROM --platform=linux/amd64 alpine:3.22@sha256:" + hash + "\n", 0},
		{"a tag", "Dockerfile", "FROM alpine:3.22 AS build\n", 1},
		{"a tag and an argument", "Dockerfile.x", "FROM alpine:${VERSION}\n", 1},
		{"a variable", "docker-compose.yaml", "    image: ${REDIS_IMAGE:-redis:8.2}\n", 0},
		{"an image", "docker-compose.yaml", "    image: redis:8.2\n", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := CheckSupply(tt.file, []byte(tt.content)); len(got) != tt.want {
				t.Errorf("got %q, want %d", got, tt.want)
			}
		})
	}
}
