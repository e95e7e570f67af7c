package envflag_test

import (
	"flag"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/cmd/internal/envflag"
)

// words is a repeatable flag.
type words []string

func (w *words) String() string { return strings.Join(*w, ",") }

func (w *words) Set(v string) error {
	*w = append(*w, strings.Split(v, ",")...)
	return nil
}

func TestParse(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args []string
		env  map[string]string
		ttl  time.Duration
		list string
		err  string
	}{
		"neither":                   {ttl: time.Hour},
		"variable":                  {env: map[string]string{"X_LEASE_TTL": "2m", "X_IFACE": "a,b"}, ttl: 2 * time.Minute, list: "a,b"},
		"flag wins":                 {args: []string{"-lease-ttl=3m", "--iface", "c"}, env: map[string]string{"X_LEASE_TTL": "2m", "X_IFACE": "a,b"}, ttl: 3 * time.Minute, list: "c"},
		"an empty variable is none": {env: map[string]string{"X_LEASE_TTL": ""}, ttl: time.Hour},
		"of another program":        {env: map[string]string{"Y_LEASE_TTL": "2m"}, ttl: time.Hour},
		"bad variable":              {env: map[string]string{"X_LEASE_TTL": "long"}, err: `environment variable X_LEASE_TTL: "long": parse error`},
		"bad, but the flag wins":    {args: []string{"-lease-ttl=3m"}, env: map[string]string{"X_LEASE_TTL": "long"}, ttl: 3 * time.Minute},
		"bad flag":                  {args: []string{"-lease-ttl=long"}, err: `invalid value "long" for flag -lease-ttl: parse error`},
		"unknown flag":              {args: []string{"-nonsense"}, err: "flag provided but not defined: -nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fs := flag.NewFlagSet("x", flag.ContinueOnError)
			fs.SetOutput(io.Discard)
			ttl := fs.Duration("lease-ttl", time.Hour, "")
			var list words
			fs.Var(&list, "iface", "")
			err := envflag.Parse(fs, "X", tt.args, func(name string) (string, bool) {
				v, ok := tt.env[name]
				return v, ok
			})
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.ttl, *ttl)
			require.Equal(t, tt.list, list.String())
		})
	}
}
