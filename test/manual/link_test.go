package manual

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestLinks: no link of a page leads nowhere.
func TestLinks(t *testing.T) {
	top := root(t)
	var pages []string
	for _, pattern := range []string{"*.md", "docs/*.md", "bench/*.md", "policies/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	if len(pages) < 15 {
		t.Fatalf("%d pages; the check would prove nothing", len(pages))
	}
	for _, path := range pages {
		name, err := filepath.Rel(top, path)
		if err != nil {
			t.Fatal(err)
		}
		problems, err := CheckLinks(top, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, problem := range problems {
			t.Error(problem)
		}
	}
}

func TestLinksCanFail(t *testing.T) {
	dir := plant(t, map[string]string{
		"a.md":      "# The `first` one\n## Envoy 1.36.2 and its advisories\n```\n# no heading\n```\n",
		"docs/b.md": "[x](../a.md) [x](../a.md#the-first-one) [x](../a.md#envoy-1362-and-its-advisories) [x](https://example.org/y) [x](#here) `[x](nowhere.md)`\n# Here\n[x](../c.md) [x](../a.md#no-heading) [x](#there)\n",
	})
	got, err := CheckLinks(dir, "docs/b.md")
	if err != nil || len(got) != 3 {
		t.Fatalf("got %q, %v", got, err)
	}
	for i, want := range []string{"../c.md: there is no such file", "../a.md#no-heading: the page has no such heading", "#there: the page has no such heading"} {
		if !strings.Contains(got[i], want) {
			t.Errorf("got %q, want %q", got[i], want)
		}
	}
}
