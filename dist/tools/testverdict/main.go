// Command testverdict reads the events of a `go test -json` run and says how
// it went: the tests that were skipped and why, then, as its last line,
// `N passed, N failed, N skipped`. It exits 1 when something failed or when
// nothing passed.
//
//	testverdict [-ci] FILE
//
// With -ci a skipped test counts as failed, unless its reason says that the
// kernel lacks something: that alone a CI machine cannot install. It imports
// the standard library only.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// excuse is what the reason of a skip must contain to be accepted in CI.
const excuse = "kernel lacks"

func main() {
	ci := flag.Bool("ci", os.Getenv("CI") == "true", "count skipped tests as failed")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: testverdict [-ci] FILE")
		os.Exit(2)
	}
	ok, err := run(flag.Arg(0), *ci, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testverdict:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func run(file string, ci bool, out io.Writer) (ok bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return false, fmt.Errorf("opening the events of the test run: %w", err)
	}
	defer f.Close()
	results, err := read(f)
	if err != nil {
		return false, fmt.Errorf("reading the events of the test run from %s: %w", file, err)
	}
	v := judge(results, ci)
	for _, line := range v.notes {
		fmt.Fprintln(out, line)
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", v.passed, v.failed, v.skipped)
	return v.failed == 0 && v.passed > 0, nil
}

// event is the part of a line of `go test -json` that matters here; `go doc
// test2json` has the whole. A package's own events have no Test.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// id names a test, or with an empty test a package.
type id struct{ pkg, test string }

// result is how a test or a package ended: pass, fail or skip, and "" for one
// that was cut off by a panic or a timeout.
type result struct {
	id
	action string
	output strings.Builder
}

// read collects the events into one result for each test and package, in the
// order in which they appeared. A build's own events are left out: the package
// that did not build reports a failure as well.
func read(r io.Reader) ([]*result, error) {
	var order []*result
	byID := map[id]*result{}
	for dec := json.NewDecoder(r); ; {
		var e event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return order, nil
		} else if err != nil {
			return nil, err
		}
		if e.Package == "" {
			continue
		}
		key := id{e.Package, e.Test}
		res := byID[key]
		if res == nil {
			res = &result{id: key}
			byID[key] = res
			order = append(order, res)
		}
		switch e.Action {
		case "pass", "fail", "skip":
			res.action = e.Action
		case "output":
			res.output.WriteString(e.Output)
		}
	}
}

type verdict struct {
	passed, failed, skipped int
	notes                   []string
}

// judge counts the tests. A package counts only where it failed and none of
// its tests did: it did not build, or its TestMain failed.
func judge(results []*result, ci bool) verdict {
	var v verdict
	failedIn := map[string]bool{}
	for _, r := range results {
		if r.test == "" {
			continue
		}
		switch r.action {
		case "pass":
			v.passed++
		case "skip":
			note, excused := reason(r.output.String())
			if ci && !excused {
				v.failed++
				v.notes = append(v.notes, fmt.Sprintf("FAIL %s %s: skipped, though CI can run it: %s", r.pkg, r.test, note))
				continue
			}
			v.skipped++
			v.notes = append(v.notes, fmt.Sprintf("skipped %s %s: %s", r.pkg, r.test, note))
		default:
			v.failed++
			failedIn[r.pkg] = true
			if r.action == "" {
				v.notes = append(v.notes, fmt.Sprintf("FAIL %s %s: never ended", r.pkg, r.test))
			}
		}
	}
	for _, r := range results {
		if r.test == "" && r.action != "pass" && r.action != "skip" && !failedIn[r.pkg] {
			v.failed++
			v.notes = append(v.notes, fmt.Sprintf("FAIL %s: the package itself", r.pkg))
		}
	}
	slices.Sort(v.notes)
	return v
}

// reason is what a skipped test said, without the testing package's own lines,
// and whether CI accepts it.
func reason(output string) (text string, excused bool) {
	var said []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			said = append(said, line)
		}
	}
	if len(said) == 0 {
		return "no reason given", false
	}
	text = strings.Join(said, " ")
	return text, strings.Contains(text, excuse)
}
