package watch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckMode(t *testing.T) {
	for mode, want := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o640: true, 0o644: true, 0o660: true, 0o664: true, 0o666: false, 0o602: false, 0o777: false} {
		path := filepath.Join(t.TempDir(), "keys.yaml")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		link := path + ".link" // As Kubernetes mounts files: the mode of the file counts.
		if err := os.Symlink(path, link); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{path, link} {
			if err := CheckMode(p); (err == nil) != want || err != nil && !strings.Contains(err.Error(), "chmod o-w") {
				t.Errorf("%04o: %v", mode, err)
			}
		}
	}
	if CheckMode(filepath.Join(t.TempDir(), "none")) == nil {
		t.Error("a file that is not there has a mode")
	}
}
