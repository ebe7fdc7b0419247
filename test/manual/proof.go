package manual

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Proof is what a page names as the proof of a line: a test, or a target of make.
type Proof struct {
	// Folder is that of the test's package, below the module. Test is its function. Sub is the path of a subtest, or "".
	Folder, Test, Sub string
	// Target is a target of make, Check one of the checks that it prints, or "".
	Target, Check string
}

var (
	testProof = regexp.MustCompile(`^([a-z0-9/_-]+) ((?:Test|Fuzz|Benchmark|Example)\w*)(?:/(.+))?$`)
	makeProof = regexp.MustCompile(`^make ([a-z0-9-]+)(?: [A-Z_]+=\S+)*(?:: (.+))?$`)
)

// Proofs reads the proofs of a cell: `folder TestName`, `folder TestName/the subtest`, `make target`, `make target: the check`.
func Proofs(cell string) ([]Proof, error) {
	var proofs []Proof
	for _, text := range Quoted(cell) {
		if m := testProof.FindStringSubmatch(text); m != nil {
			proofs = append(proofs, Proof{Folder: m[1], Test: m[2], Sub: m[3]})
		} else if m := makeProof.FindStringSubmatch(text); m != nil {
			proofs = append(proofs, Proof{Target: m[1], Check: m[2]})
		} else {
			return nil, fmt.Errorf("%q is no proof; legal are `folder TestName`, `folder TestName/subtest`, `make target` and `make target: check`", text)
		}
	}
	if len(proofs) == 0 {
		return nil, errors.New("no proof")
	}
	return proofs, nil
}

// String is the proof as a page has it.
func (p Proof) String() string {
	s := p.Folder + " " + p.Test
	if p.Target != "" {
		s = "make " + p.Target
	}
	if p.Check != "" {
		s += ": " + p.Check
	}
	if p.Sub != "" {
		s += "/" + p.Sub
	}
	return s
}

// SkipsSection is the heading over a page's table of the tests that do not run everywhere.
const SkipsSection = "Tests that do not run everywhere"

// Skips are the tests that do not run everywhere, as a page lists them, each with its line.
func Skips(page string) (map[string]int, error) {
	rows, err := Rows(page)
	if err != nil {
		return nil, err
	}
	listed := map[string]int{}
	for i := range rows {
		if rows[i].Section == SkipsSection {
			for _, name := range Quoted(rows[i].Cell("Test")) {
				listed[name] = rows[i].Line
			}
		}
	}
	return listed, nil
}

// CheckProofs returns what is wrong with the proofs of a page's tables, whose column is "Proof": what they name does not exist, is never run, or does not run everywhere
// without being listed as such. partial has the proofs that do not run everywhere.
func CheckProofs(page string, tree *Tree, listed map[string]int) (found []string, partial map[string]bool) {
	partial = map[string]bool{}
	rows, err := Rows(page)
	if err != nil {
		return []string{err.Error()}, partial
	}
	for i := range rows {
		if !slices.Contains(rows[i].Columns, "Proof") {
			continue
		}
		proofs, err := Proofs(rows[i].Cell("Proof"))
		if err != nil {
			found = append(found, fmt.Sprintf("line %d: %v", rows[i].Line, err))
		}
		for _, p := range proofs {
			whole := Proof{Folder: p.Folder, Test: p.Test}.String()
			partly, err := tree.Look(p)
			if err != nil {
				found = append(found, fmt.Sprintf("line %d: %s: %v", rows[i].Line, p, err))
			} else if partly != "" {
				partial[whole] = true
				if listed[whole] == 0 {
					found = append(found, fmt.Sprintf("line %d: %s %s, and does not stand under %q", rows[i].Line, whole, partly, SkipsSection))
				}
			}
		}
	}
	return found, partial
}

// CheckSections returns the sections that have fewer rows with proofs than they must have.
func CheckSections(page string, least map[string]int) []string {
	rows, err := Rows(page)
	if err != nil {
		return []string{err.Error()}
	}
	have := map[string]int{}
	for i := range rows {
		number, _, _ := strings.Cut(rows[i].Section, " ")
		if rows[i].Cell("Proof") != "" {
			have[number]++
		}
	}
	var found []string
	for section, n := range least {
		if have[section] < n {
			found = append(found, fmt.Sprintf("section %s has %d lines, want %d at least", section, have[section], n))
		}
	}
	return found
}
