package boot

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/unit"
	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// confined shows a command the file system as systemd does under
// ProtectSystem=strict (systemd.exec(5)), everything read-only but the kernel's
// own file systems and the directories named, and leaves it the capabilities
// named and no way to more.
const confined = `
set -eu
writable=$1 capabilities=$2
shift 2
for dir in $writable; do
	mount --bind "$dir" "$dir"
done
findmnt --raw --noheadings --output TARGET | while read -r target; do
	case " $writable " in *" $target "*) continue ;; esac
	case $target in
	/proc | /proc/* | /sys | /sys/* | /dev | /dev/*) ;;
	*) mount -o remount,bind,ro "$(printf '%b' "$target")" 2>/dev/null || : ;; # another mount hides it
	esac
done
! touch /usr/probe /etc/probe /run/probe /var/lib/probe 2>/dev/null || { echo "the file system is not read-only" >&2; exit 1; }
exec setpriv --bounding-set="$capabilities" --inh-caps=-all --no-new-privs -- "$@"
`

// service is a unit file.
type service []*unit.UnitOption

func readUnit(t *testing.T, name string) service {
	t.Helper()
	file, err := os.Open("../../../dist/systemd/" + name)
	require.NoError(t, err)
	defer file.Close()
	options, err := unit.DeserializeOptions(file)
	require.NoError(t, err)
	return options
}

// get returns the words of a setting that the unit must have.
func (s service) get(t *testing.T, setting string) (words []string) {
	t.Helper()
	for _, o := range s {
		if o.Section == "Service" && o.Name == setting {
			words = append(words, strings.Fields(o.Value)...)
		}
	}
	require.NotEmpty(t, words, setting)
	return words
}

// command returns the command line that runs twilld on a node as its unit
// would, with some variables.
func command(t *testing.T, n *netlab.Node, vars ...string) []string {
	t.Helper()
	u := readUnit(t, "twilld.service")
	capabilities := "-all"
	for _, c := range u.get(t, "CapabilityBoundingSet") {
		capabilities += ",+" + strings.TrimPrefix(strings.ToLower(c), "cap_")
	}
	require.Equal(t, []string{"strict"}, u.get(t, "ProtectSystem"))
	require.Equal(t, []string{"yes"}, u.get(t, "NoNewPrivileges"))

	var made, writable []string // what systemd makes, and all that can be written
	for _, d := range u.get(t, "RuntimeDirectory") {
		made = append(made, "/run/"+d)
	}
	for _, d := range u.get(t, "StateDirectory") {
		made = append(made, "/var/lib/"+d)
	}
	_, err := n.Exec(t.Context(), append([]string{"mkdir", "-p"}, made...)...)
	require.NoError(t, err)
	writable = made
	for _, path := range u.get(t, "ReadWritePaths") {
		optional := strings.TrimPrefix(path, "-")
		if _, err := os.Stat(n.Path(optional)); err == nil || optional == path {
			writable = append(writable, optional)
		}
	}
	binary := netlabtest.Binaries(t).Twilld
	return append(append([]string{
		"unshare", "--mount", "--propagation=private", "sh", "-c", confined, "sh",
		strings.Join(writable, " "), capabilities, "env",
	}, vars...), binary)
}

// start starts twilld on a node as its unit would, with the lab's etcd, and
// watched by m.
func start(t *testing.T, c *netlab.Lab, n *netlab.Node, m *manager) *netlab.Process {
	t.Helper()
	p, err := n.Start("twilld", command(t, n,
		"NOTIFY_SOCKET="+m.socket,
		fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds()),
		"TWILLD_ETCD_ENDPOINTS="+strings.Join(c.EtcdEndpoints(), ","),
		"TWILLD_IP_MASQ=true",
		"TWILLD_HEALTHZ_IP=127.0.0.1", "TWILLD_HEALTHZ_PORT=8471",
	)...)
	require.NoError(t, err)
	return p
}
