// Command gen writes the JSON Schemas of the configuration files from the types that the files are decoded into. It runs in the
// folder config/schema (go generate ./config/schema).
package main

import (
	"fmt"
	"os"

	"github.com/policy-engine/policy-engine/config/internal/document"
)

// outputs are the files and what they describe. $id is the file's name: the schemas are kept with the engine, not on a server.
var outputs = []struct {
	file, title string
	root        defaulted
}{
	{"kernel-config.schema.json", "Policy Engine: kernel-config.yaml", &document.KernelFile{}},
	{"worker-config.schema.json", "Policy Engine: worker-config-N.yaml", &document.WorkerFile{}},
}

// documents is the folder of the types, seen from config/schema.
const documents = "../internal/document"

func main() {
	for _, out := range outputs {
		text, err := generate(documents, out.title, out.root)
		if err == nil {
			err = os.WriteFile(out.file, text, 0o644)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "write schema %q: %v\n", out.file, err)
			os.Exit(1)
		}
	}
}
