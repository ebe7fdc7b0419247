package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// restrictions are those of the engine in docker-compose.yaml: what is tested is what is given to users.
type restrictions struct {
	ReadOnly    bool     `yaml:"read_only"`
	Tmpfs       []string `yaml:"tmpfs"`
	CapDrop     []string `yaml:"cap_drop"`
	SecurityOpt []string `yaml:"security_opt"`
	MemLimit    string   `yaml:"mem_limit"`
	CPUs        float64  `yaml:"cpus"`
	PIDsLimit   int      `yaml:"pids_limit"`
}

func readRestrictions() (*restrictions, error) {
	text, err := os.ReadFile("docker-compose.yaml")
	if err != nil {
		return nil, err
	}
	var file struct {
		Services map[string]restrictions
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("read docker-compose.yaml: %w", err)
	}
	r, found := file.Services["engine"]
	if !found || !r.ReadOnly || len(r.Tmpfs) == 0 || len(r.CapDrop) == 0 || len(r.SecurityOpt) == 0 || r.MemLimit == "" || r.CPUs == 0 || r.PIDsLimit == 0 {
		return nil, errors.New("docker-compose.yaml: the engine lacks a restriction: read_only, tmpfs, cap_drop, security_opt, mem_limit, cpus and pids_limit are needed")
	}
	return &r, nil
}

// flags are those of `docker run`.
func (r *restrictions) flags() []string {
	flags := []string{"--read-only", "--memory", r.MemLimit, "--cpus", strconv.FormatFloat(r.CPUs, 'f', -1, 64), "--pids-limit", strconv.Itoa(r.PIDsLimit)}
	for _, t := range r.Tmpfs {
		flags = append(flags, "--tmpfs", t)
	}
	for _, c := range r.CapDrop {
		flags = append(flags, "--cap-drop", c)
	}
	for _, s := range r.SecurityOpt {
		flags = append(flags, "--security-opt", s)
	}
	return flags
}
