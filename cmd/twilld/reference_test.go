package main

import (
	"flag"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/cmd/internal/reference"
)

//go:generate env TWILL_WRITE_REFERENCE=1 go test -count=1 -run ^TestReference$ .

// The operator finds every flag in the reference.
func TestReference(t *testing.T) {
	hostname, err := os.Hostname()
	require.NoError(t, err)
	var o options
	var rows [][]string
	o.flags().VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		def, text := reference.Default(f.DefValue, usage)
		if f.Name == "node-name" && f.DefValue == hostname {
			def = "the host's name"
		}
		name := "--" + f.Name
		if value != "" {
			name += " " + value
		}
		rows = append(rows, []string{reference.Code(name), reference.Code(variable(f.Name)), def, reference.Prose(text)})
	})
	reference.Check(t, "flags of twilld", reference.Table([]string{"flag", "variable", "default", "meaning"}, rows))
}
