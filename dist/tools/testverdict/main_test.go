package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVerdict(t *testing.T) {
	t.Parallel()
	const (
		pass = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
`
		skip = `{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:7: needs REASON\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
`
		mute   = `{"Action":"skip","Package":"p","Test":"TestB"}` + "\n"
		fail   = `{"Action":"fail","Package":"p","Test":"TestC"}` + "\n"
		cut    = `{"Action":"run","Package":"p","Test":"TestD"}` + "\n"
		pkgOK  = `{"Action":"pass","Package":"p"}` + "\n"
		pkgBad = `{"Action":"fail","Package":"p"}` + "\n"
		build  = `{"ImportPath":"q","Action":"build-output","Output":"x\n"}
{"ImportPath":"q","Action":"build-fail"}
{"Action":"start","Package":"q"}
{"Action":"fail","Package":"q"}
`
		empty = `{"Action":"skip","Package":"none"}` + "\n"
	)
	lacks := strings.ReplaceAll(skip, "needs REASON", "the kernel lacks wireguard")
	for _, tt := range []struct {
		name, events string
		ci, ok       bool
		want         string
	}{
		{"passed", pass + pkgOK + empty, true, true, "1 passed, 0 failed, 0 skipped\n"},
		{"skip at home", pass + skip + pkgOK, false, true,
			"skipped p TestB: b_test.go:7: needs REASON\n1 passed, 0 failed, 1 skipped\n"},
		{"skip in CI", pass + skip + pkgOK, true, false,
			"FAIL p TestB: skipped, though CI can run it: b_test.go:7: needs REASON\n1 passed, 1 failed, 0 skipped\n"},
		{"skip without a reason in CI", pass + mute + pkgOK, true, false,
			"FAIL p TestB: skipped, though CI can run it: no reason given\n1 passed, 1 failed, 0 skipped\n"},
		{"excused skip in CI", pass + lacks + pkgOK, true, true,
			"skipped p TestB: b_test.go:7: the kernel lacks wireguard\n1 passed, 0 failed, 1 skipped\n"},
		{"failed", pass + fail + pkgBad, false, false, "1 passed, 1 failed, 0 skipped\n"},
		{"cut off", pass + cut + pkgBad, false, false,
			"FAIL p TestD: never ended\n1 passed, 1 failed, 0 skipped\n"},
		{"failed outside its tests", pass + pkgBad, false, false,
			"FAIL p: the package itself\n1 passed, 1 failed, 0 skipped\n"},
		{"did not build", pass + pkgOK + build, false, false,
			"FAIL q: the package itself\n1 passed, 1 failed, 0 skipped\n"},
		{"nothing ran", empty, false, false, "0 passed, 0 failed, 0 skipped\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "events")
			if err := os.WriteFile(file, []byte(tt.events), 0o600); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			ok, err := run(file, tt.ci, &out)
			if err != nil {
				t.Fatal(err)
			}
			if got := out.String(); ok != tt.ok || got != tt.want {
				t.Errorf("ok %v, want %v\ngot:\n%swant:\n%s", ok, tt.ok, got, tt.want)
			}
		})
	}
}

func TestVerdictOfBrokenEvents(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "events")
	if err := os.WriteFile(file, []byte(`{"Action":"pa`), 0o600); err != nil {
		t.Fatal(err)
	}
	if ok, err := run(file, false, &strings.Builder{}); ok || err == nil {
		t.Errorf("ok %v, error %v; want an error", ok, err)
	}
}
