package config

import (
	"os"

	"github.com/policy-engine/policy-engine/config/internal/document"
	"github.com/policy-engine/policy-engine/config/internal/strict"
)

// Secret is a text of a Tree that is compared, and never shown.
type Secret = strict.Secret

// Tree is what a configuration says, with all defaults, for pages and comparisons: mappings are map[string]any, lists []any, scalars string, json.Number, bool or Secret. Its JSON is masked.
type Tree map[string]any

// EffectiveKernel is the tree of the text of a kernel-config.yaml below policy_kernel. A file with mistakes is an Errors that tells all of them.
func EffectiveKernel(file string, data []byte) (Tree, error) {
	if _, err := ParseKernel(file, data); err != nil {
		return nil, err
	}
	var doc document.KernelFile
	strict.Decode(file, data, os.LookupEnv, &doc) // It has no mistakes.
	return strict.Tree(&doc).(map[string]any)["policy_kernel"].(map[string]any), nil
}
