package main

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

// yaml writes the bootstrap with Envoy's names of keys.
func (b *bootstrap) yaml() ([]byte, error) {
	message, err := b.message()
	if err != nil {
		return nil, err
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("encode the Envoy configuration: %w", err)
	}
	// JSON is YAML: the order of keys stays.
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("encode the Envoy configuration: %w", err)
	}
	blockStyle(&doc)
	var out bytes.Buffer
	out.WriteString("# Made by policyctl envoy for Envoy 1.36. A failure of the engine refuses the request: failure_mode_allow is false, Envoy's default.\n")
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, fmt.Errorf("encode the Envoy configuration: %w", err)
	}
	return out.Bytes(), enc.Close()
}

// blockStyle takes JSON's braces and quotes away; the encoder quotes what would not stay a text.
func blockStyle(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		blockStyle(child)
	}
}
