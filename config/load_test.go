package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write what is found into the files of expected output")

// testEnv holds the variables of the test files.
func testEnv(name string) (string, bool) {
	v, ok := map[string]string{
		"SET":    "set",
		"PORT":   "9100",
		"EMPTY":  "",
		"INJECT": "p\non_failure: continue",
		"BYTES":  "\xff",
	}[name]
	return v, ok
}

// parse reads a file as what its name says, and returns the value.
func parse(t *testing.T, path string) (any, error) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(path)
	if strings.HasPrefix(name, "kernel-") {
		k, err := parseKernel(name, data, testEnv)
		if err != nil {
			return nil, err
		}
		return k, nil
	}
	w, err := parseWorker(name, data, testEnv)
	if err != nil {
		return nil, err
	}
	return w, nil
}

func files(t *testing.T, pattern string, atLeast int) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) < atLeast {
		t.Fatalf("%s: %d files, %v", pattern, len(paths), err)
	}
	return paths
}

// expect compares with the file of expected output, or writes it.
func expect(t *testing.T, path string, got []byte) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestBadFilesTellEveryMistake(t *testing.T) {
	for _, path := range files(t, "testdata/bad/*.yaml", 50) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			v, err := parse(t, path)
			var errs Errors
			if !errors.As(err, &errs) || len(errs) == 0 || v != nil {
				t.Fatalf("got %v and %v; want only Errors", v, err)
			}
			expect(t, strings.TrimSuffix(path, "yaml")+"txt", []byte(err.Error()+"\n"))
		})
	}
}

func TestGoodFiles(t *testing.T) {
	for _, path := range files(t, "testdata/good/*.yaml", 5) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			v, err := parse(t, path)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(v, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			expect(t, strings.TrimSuffix(path, "yaml")+"json", append(got, '\n'))
		})
	}
}

func TestTheSmallestUsefulFileHasTenLines(t *testing.T) {
	data, err := os.ReadFile("testdata/good/kernel-smallest.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(data, []byte("\n")); n > 10 {
		t.Errorf("%d lines", n)
	}
	k, err := ParseKernel("k.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	if len(k.Workers) != 1 || len(k.Routes) != 1 || len(k.Routes[0].Request.Chain) != 1 {
		t.Errorf("it configures too little to be useful: %+v", k)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadKernel(filepath.Join(dir, "none.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing kernel file: %v", err)
	}
	if _, err := LoadWorker(dir); err == nil {
		t.Error("a folder was read as a file")
	}
	if k, err := LoadKernel("testdata/good/kernel-smallest.yaml"); err != nil || k.File != "testdata/good/kernel-smallest.yaml" {
		t.Errorf("got %+v, %v", k, err)
	}
	if w, err := LoadWorker("testdata/good/worker-smallest.yaml"); err != nil || w.Name != "worker-1" {
		t.Errorf("got %+v, %v", w, err)
	}
}

func TestHugeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "huge.yaml")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 40); err != nil { // Sparse: it takes no room, but would take all memory.
		t.Skip("no sparse files here:", err)
	}
	_, err = LoadKernel(path)
	if want := path + ": the file has more than 64 MiB"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestErrorsComeInTheOrderOfLines(t *testing.T) {
	var errs Errors
	if errs.Err() != nil {
		t.Error("no mistakes are an error")
	}
	errs.Add(Pos{"b.yaml", 9, "x"}, "first file")
	errs.Add(Pos{"a.yaml", 2, ""}, "second %s", "file")
	errs.Add(Pos{"b.yaml", 0, ""}, "no line")
	want := "b.yaml: no line\nb.yaml:9: x: first file\na.yaml:2: second file"
	if got := errs.Err().Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// manyRoutes is a file with n routes of three policies each.
func manyRoutes(n int) []byte {
	var b bytes.Buffer
	b.WriteString("policy_kernel:\n  workers:\n    - {name: worker-1, socket_path: /run/w.sock}\n  route_policies:\n")
	for i := range n {
		fmt.Fprintf(&b, `    - route_name: route-%d
      request_flow:
        policy_chain:
          - policy: apiKeyAuth
            params: {key_store: partners, scopes: [a, b]}
          - policy: rateLimit
            params: {requests: 100, per: 1m, burst: 20, key: identity}
      response_flow:
        policy_chain:
          - {policy: securityHeaders}
`, i)
	}
	return b.Bytes()
}

func BenchmarkParseKernel10000Routes(b *testing.B) {
	data := manyRoutes(10_000)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if k, err := ParseKernel("k.yaml", data); err != nil || len(k.Routes) != 10_000 {
			b.Fatal(err)
		}
	}
}
