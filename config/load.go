package config

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"github.com/policy-engine/policy-engine/config/internal/document"
	"github.com/policy-engine/policy-engine/config/internal/strict"
)

// MaxFileSize is the longest that a configuration file may be, in bytes.
const MaxFileSize = strict.MaxFileSize

// LoadKernel reads a kernel-config.yaml. The error of a file with mistakes is an Errors that tells all of them. What is valid and probably not
// meant is in Kernel.Warnings.
func LoadKernel(path string) (*Kernel, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	return ParseKernel(path, data)
}

// LoadWorker reads a worker-config-N.yaml. The error of a file with mistakes is an Errors that tells all of them.
func LoadWorker(path string) (*Worker, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	return ParseWorker(path, data)
}

// ParseKernel reads the text of a kernel-config.yaml. The name of the file is for messages. Variables are those of the process.
func ParseKernel(file string, data []byte) (*Kernel, error) {
	return parseKernel(file, data, os.LookupEnv)
}

// ParseWorker reads the text of a worker-config-N.yaml, as ParseKernel does.
func ParseWorker(file string, data []byte) (*Worker, error) {
	return parseWorker(file, data, os.LookupEnv)
}

func parseKernel(file string, data []byte, env func(string) (string, bool)) (*Kernel, error) {
	var doc document.KernelFile
	c := checker{file: file}
	c.add(strict.Decode(file, data, env, &doc))
	c.origins = doc.Origins()
	k := c.kernel(&doc.PolicyKernel)
	k.Digest, k.Text = sha256.Sum256(data), data
	k.Warnings = c.sorted()
	if err := c.errs.Err(); err != nil {
		return nil, err
	}
	return k, nil
}

func parseWorker(file string, data []byte, env func(string) (string, bool)) (*Worker, error) {
	var doc document.WorkerFile
	c := checker{file: file}
	c.add(strict.Decode(file, data, env, &doc))
	c.origins = doc.Origins()
	w := c.worker(&doc.PolicyWorker)
	w.Warnings = c.sorted()
	if err := c.errs.Err(); err != nil {
		return nil, err
	}
	return w, nil
}

// read reads a file, but not more than is legal and one byte.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, strict.MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration file: %w", err)
	}
	return data, nil
}
