// Command gen writes the JSON Schemas of the configuration files, made from the types that the files are decoded into, into a folder, and the page that explains their keys into
// a file. It runs at the top of the module: go run ./config/schema/gen config/schema docs/configuration.md.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/policy-engine/policy-engine/config/internal/document"
)

// outputs are the files and what they describe.
var outputs = []struct {
	file, title string
	root        defaulted
}{
	{"kernel-config.schema.json", "Policy Engine: kernel-config.yaml", &document.KernelFile{}},
	{"worker-config.schema.json", "Policy Engine: worker-config-N.yaml", &document.WorkerFile{}},
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: gen FOLDER PAGE")
		os.Exit(2)
	}
	for _, out := range outputs {
		text, err := generate("config/internal/document", out.title, out.root)
		if err == nil {
			err = os.WriteFile(filepath.Join(os.Args[1], out.file), text, 0o644)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "write schema %q: %v\n", out.file, err)
			os.Exit(1)
		}
	}
	text, err := page("config/internal/document")
	if err == nil {
		err = os.WriteFile(os.Args[2], text, 0o644)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "write page %q: %v\n", os.Args[2], err)
		os.Exit(1)
	}
}
