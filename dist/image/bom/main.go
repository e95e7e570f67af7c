// Command bom writes what programs are made of, as their own build information
// says (go version -m): a bill of materials, CycloneDX, and the licence texts of
// every Go module and of Go itself.
//
//	bom -name N -version V -root ROOT-DIR -source REPOSITORY-DIR
//
// Every program below ROOT-DIR is looked at. It writes
// ROOT-DIR/usr/share/doc/twill/sbom.cdx.json and
// ROOT-DIR/usr/share/licenses/MODULE/. Modules are read from the module cache.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "bom: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var name, version, root, source string
	flags := flag.NewFlagSet("bom", flag.ContinueOnError)
	flags.StringVar(&name, "name", "", "`name` of what is described")
	flags.StringVar(&version, "version", "", "its `version`, and that of modules which have none")
	flags.StringVar(&root, "root", "", "`directory` with the programs")
	flags.StringVar(&source, "source", "", "`directory` of the repository: the licence of its modules")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if name == "" || version == "" || root == "" || source == "" {
		return errors.New("-name, -version, -root and -source are needed")
	}
	programs, err := readPrograms(root)
	if err != nil {
		return err
	}
	where, err := newLocator(source)
	if err != nil {
		return err
	}
	licences, err := collect(programs, where, filepath.Join(root, "usr/share/licenses"))
	if err != nil {
		return err
	}
	return writeBOM(root, name, version, programs, licences)
}
