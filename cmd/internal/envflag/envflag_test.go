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

// What looks like a variable of ours, and is none, is told; what the kubelet
// makes of Services is not.
func TestUnknown(t *testing.T) {
	t.Parallel()
	fs := flag.NewFlagSet("x", flag.ContinueOnError)
	fs.String("etcd-endpoints", "", "")
	fs.Bool("ip-masq", false, "")
	fs.Int("healthz-port", 0, "")
	require.Equal(t, []string{
		"X_ETCD_ENDPOINT is no variable of x; did you mean X_ETCD_ENDPOINTS?",
		"X_HEALTH_PORT is no variable of x; did you mean X_HEALTHZ_PORT?",
		"X_IP_MASK is no variable of x; did you mean X_IP_MASQ?",
		"X_NONSENSE is no variable of x",
	}, envflag.Unknown(fs, "X", []string{
		"X_IP_MASK=true", "X_ETCD_ENDPOINT=http://192.0.2.1:2379", "X_NONSENSE=1", "X_HEALTH_PORT=1", "X_ETCD_ENDPOINTS=a", "X_IP_MASQ=true", "X_IP_MASC=", "XX_IP_MASQ=1", "HOME=/",
		"X_SERVICE_HOST=10.0.0.11", "X_SERVICE_PORT=6379", "X_SERVICE_PORT_HTTP_METRICS=6379", "X_PORT=tcp://10.0.0.11:6379", "X_PORT_6379_TCP=tcp://10.0.0.11:6379",
		"X_PORT_6379_TCP_PROTO=tcp", "X_PORT_6379_TCP_PORT=6379", "X_PORT_6379_TCP_ADDR=10.0.0.11", "X_METRICS_SERVICE_HOST=10.0.0.11", "X_METRICS_PORT=udp://10.0.0.11:6379", "X_METRICS_PORT_53_UDP=udp://10.0.0.11:53",
	}))
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
		"bad variable":              {env: map[string]string{"X_LEASE_TTL": "long"}, err: `environment variable X_LEASE_TTL: "long": want a duration such as 24h`},
		"bad variable of a switch":  {env: map[string]string{"X_IP_MASQ": "yes"}, err: `environment variable X_IP_MASQ: "yes": want true or false`},
		"bad, but the flag wins":    {args: []string{"-lease-ttl=3m"}, env: map[string]string{"X_LEASE_TTL": "long"}, ttl: 3 * time.Minute},
		"bad flag":                  {args: []string{"-lease-ttl=long"}, err: `invalid value "long" for flag --lease-ttl: want a duration such as 24h`},
		"no unit":                   {args: []string{"--lease-ttl", "5"}, err: `invalid value "5" for flag --lease-ttl: want a duration such as 24h`},
		"bad switch":                {args: []string{"--ip-masq=yes"}, err: `invalid value "yes" for flag --ip-masq: want true or false`},
		"bad number":                {args: []string{"--port", "http"}, err: `invalid value "http" for flag --port: want a whole number`},
		"large number":              {args: []string{"--port", "99999999999999999999"}, err: `invalid value "99999999999999999999" for flag --port: value out of range`},
		"a value like an error":     {args: []string{"--port", `1" for flag -x: y`}, err: `invalid value "1\" for flag -x: y" for flag --port: want a whole number`},
		"no value":                  {args: []string{"-lease-ttl"}, err: `flag needs an argument: --lease-ttl`},
		"misspelt flag":             {args: []string{"--lease-tll=1h"}, err: `there is no flag --lease-tll (did you mean --lease-ttl?)`},
		"unknown flag":              {args: []string{"-nonsense"}, err: "there is no flag --nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fs := flag.NewFlagSet("x", flag.ContinueOnError)
			fs.SetOutput(io.Discard)
			ttl := fs.Duration("lease-ttl", time.Hour, "")
			fs.Bool("ip-masq", false, "")
			fs.Int("port", 0, "")
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
