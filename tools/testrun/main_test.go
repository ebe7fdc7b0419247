package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestTally(t *testing.T) {
	for _, tt := range []struct {
		name           string
		events         []string
		passed, failed int
		prints         string // what the report must hold
	}{
		{"a test", []string{
			`{"Action":"run","Package":"p","Test":"TestA"}`,
			`{"Action":"pass","Package":"p","Test":"TestA"}`,
			`{"Action":"pass","Package":"p"}`,
		}, 1, 0, "ok    p"},
		{"subtests count, their parent doesn't", []string{
			`{"Action":"run","Package":"p","Test":"TestA"}`,
			`{"Action":"run","Package":"p","Test":"TestA/x"}`,
			`{"Action":"output","Package":"p","Test":"TestA/x","Output":"x is wrong\n"}`,
			`{"Action":"run","Package":"p","Test":"TestA/y"}`,
			`{"Action":"fail","Package":"p","Test":"TestA/x"}`,
			`{"Action":"pass","Package":"p","Test":"TestA/y"}`,
			`{"Action":"fail","Package":"p","Test":"TestA"}`,
			`{"Action":"fail","Package":"p"}`,
		}, 1, 1, "x is wrong"},
		{"a parent that fails by itself", []string{
			`{"Action":"run","Package":"p","Test":"TestA"}`,
			`{"Action":"run","Package":"p","Test":"TestA/x"}`,
			`{"Action":"pass","Package":"p","Test":"TestA/x"}`,
			`{"Action":"output","Package":"p","Test":"TestA","Output":"a leak\n"}`,
			`{"Action":"fail","Package":"p","Test":"TestA"}`,
			`{"Action":"fail","Package":"p"}`,
		}, 1, 1, "a leak"},
		{"a package that doesn't build", []string{
			`{"ImportPath":"p [p.test]","Action":"build-output","Output":"undefined: x\n"}`,
			`{"ImportPath":"p [p.test]","Action":"build-fail"}`,
			`{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`,
		}, 0, 1, "undefined: x"},
		{"a package that ends early", []string{
			`{"Action":"output","Package":"p","Output":"exit status 3\n"}`,
			`{"Action":"fail","Package":"p"}`,
		}, 0, 1, "exit status 3"},
		{"a skipped test is named", []string{
			`{"Action":"run","Package":"p","Test":"TestA"}`,
			`{"Action":"skip","Package":"p","Test":"TestA"}`,
			`{"Action":"pass","Package":"p"}`,
		}, 0, 0, "skipped: p TestA"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			total := newTally(&out)
			for _, e := range tt.events {
				total.read([]byte(e))
			}
			total.print()
			if total.passed != tt.passed || total.failed != tt.failed {
				t.Errorf("passed %d, failed %d; want %d, %d", total.passed, total.failed, tt.passed, tt.failed)
			}
			if !strings.Contains(out.String(), tt.prints) {
				t.Errorf("report lacks %q:\n%s", tt.prints, &out)
			}
		})
	}
}

func TestAgain(t *testing.T) {
	var r runs
	for value, legal := range map[string]bool{"A=b ./x ./y": true, "A=b": false, "A ./x": false, "": false} {
		if err := r.Set(value); (err == nil) != legal {
			t.Errorf("%q: %v", value, err)
		}
	}
	if len(r) != 1 || r[0].variable != "A=b" || strings.Join(r[0].packages, " ") != "./x ./y" {
		t.Errorf("got %v", r)
	}
}
