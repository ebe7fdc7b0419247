package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	validator "github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// The schemas in the repository are those of the types. `go generate ./config` writes them anew.
func TestSchemasAreCurrent(t *testing.T) {
	for _, out := range outputs {
		want, err := generate("../../internal/document", out.title, out.root)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("..", out.file))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not current: run go generate ./config", out.file)
		}
	}
}

func TestEveryKeyHasADescription(t *testing.T) {
	for _, out := range outputs {
		text, err := generate("../../internal/document", out.title, out.root)
		if err != nil {
			t.Fatal(err)
		}
		var s map[string]any
		if err := yaml.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		if described(t, out.file, s) < 10 {
			t.Errorf("%s has hardly any keys", out.file)
		}
	}
}

func described(t *testing.T, path string, s map[string]any) int {
	n := 0
	properties, _ := s["properties"].(map[string]any)
	for key, p := range properties {
		p := p.(map[string]any)
		if p["description"] == nil {
			t.Errorf("%s.%s has no description: comment its field", path, key)
		}
		n += 1 + described(t, path+"."+key, p)
	}
	for _, key := range []string{"items", "additionalProperties"} {
		if inner, ok := s[key].(map[string]any); ok {
			n += described(t, path+"."+key, inner)
		}
	}
	return n
}

func compile(t *testing.T, file string) *validator.Schema {
	t.Helper()
	s, err := validator.NewCompiler().Compile(filepath.Join("..", file))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sample decodes a file as an editor sees it.
func sample(t *testing.T, path string) (any, error) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	err = yaml.Unmarshal(data, &v)
	return v, err
}

func TestGoodFilesMeetTheSchema(t *testing.T) {
	for kind, file := range map[string]string{"kernel": "kernel-config.schema.json", "worker": "worker-config.schema.json"} {
		s := compile(t, file)
		paths, err := filepath.Glob("../../testdata/good/" + kind + "-*.yaml")
		if err != nil || len(paths) < 2 {
			t.Fatalf("%d samples, %v", len(paths), err)
		}
		for _, path := range paths {
			v, err := sample(t, path)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Validate(v); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}

// beyond are the mistakes that a schema can't see: those of the text, between two keys, and of what a variable stands for.
var beyond = []string{
	"kernel-address-and-socket", "kernel-address-bad", "kernel-env-injection", "kernel-env-malformed", "kernel-env-not-utf8", "kernel-env-unset",
	"kernel-env-wrong-type", "kernel-no-workers", "kernel-params-null", "kernel-params-numbers", "kernel-params-tags", "kernel-params-truth",
	"kernel-policy-timeout", "kernel-port-forms", "kernel-route-twice", "kernel-same-port", "kernel-socket-twice", "kernel-tagged",
	"kernel-tls-client-ca-alone", "kernel-tls-half", "kernel-tls-other-half", "kernel-too-deep", "kernel-tracing-clear", "kernel-two-documents", "kernel-worker-name-twice",
}

func TestBadFilesMissTheSchema(t *testing.T) {
	seen := 0
	for kind, file := range map[string]string{"kernel": "kernel-config.schema.json", "worker": "worker-config.schema.json"} {
		s := compile(t, file)
		paths, err := filepath.Glob("../../testdata/bad/" + kind + "-*.yaml")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			v, err := sample(t, path)
			if err != nil { // Not YAML, or a duplicate key: an editor tells that without a schema.
				continue
			}
			seen++
			var invalid *validator.ValidationError
			meets := !errors.As(s.Validate(v), &invalid)
			if name := strings.TrimSuffix(filepath.Base(path), ".yaml"); meets != slices.Contains(beyond, name) {
				t.Errorf("%s meets the schema: %t", path, meets)
			}
		}
	}
	if seen < 75 {
		t.Errorf("only %d bad files were tried", seen)
	}
}

// The page in the repository is that of the types, and has every key of the schemas.
func TestPageIsCurrent(t *testing.T) {
	want, err := page("../../internal/document")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/configuration.md is not current: run make generate")
	}
	for _, out := range outputs {
		text, err := os.ReadFile(filepath.Join("..", out.file))
		if err != nil {
			t.Fatal(err)
		}
		var s map[string]any
		if err := yaml.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		if n := explained(t, string(got), "", s); n < 10 {
			t.Errorf("%s has %d keys; the check would prove nothing", out.file, n)
		}
	}
}

// explained looks for the keys of a schema, as it stands in its file, in the page.
func explained(t *testing.T, page, path string, s map[string]any) int {
	n := 0
	properties, _ := s["properties"].(map[string]any)
	for key, p := range properties {
		p, at := p.(map[string]any), path+key
		if !strings.Contains(page, "\n| `"+at+"` | ") {
			t.Errorf("docs/configuration.md does not have %s", at)
		}
		n += 1 + explained(t, page, at+".", p)
		for inner, suffix := range map[string]string{"items": "[].", "additionalProperties": ".NAME."} {
			if inner, ok := p[inner].(map[string]any); ok {
				n += explained(t, page, at+suffix, inner)
			}
		}
	}
	return n
}
