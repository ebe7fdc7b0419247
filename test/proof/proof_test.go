package proof

import (
	"path/filepath"
	"testing"
)

// TestProves: a proof is for one id, and made with one key.
func TestProves(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	key, err := New(file)
	if err != nil {
		t.Fatal(err)
	}
	read, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	other, err := New(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		text string
		want bool
	}{
		"its own":         {key.Of("1"), true},
		"by the file":     {read.Of("1"), true},
		"of another id":   {key.Of("2"), false},
		"by another key":  {other.Of("1"), false},
		"none":            {"", false},
		"its beginning":   {key.Of("1")[:63], false},
		"with more":       {key.Of("1") + "0", false},
		"in another case": {"A" + key.Of("1")[1:], false},
	} {
		if got := key.Proves("1", tt.text); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there is a key")
	}
}
