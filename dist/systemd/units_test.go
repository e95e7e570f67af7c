// Package systemd has the units and snippets that packages install, and the
// tests of what systemd itself says of them.
package systemd

import (
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// units are the files that systemd-analyze checks.
func units(t *testing.T) []string {
	t.Helper()
	services, err := filepath.Glob("*.service")
	require.NoError(t, err)
	timers, err := filepath.Glob("*.timer")
	require.NoError(t, err)
	require.NotEmpty(t, services)
	require.NotEmpty(t, timers)
	return append(services, timers...)
}

// root makes a root directory with the host's own units, ours, and the
// programs which ours start.
func root(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	to := filepath.Join(dir, "usr/lib/systemd/system")
	require.NoError(t, os.MkdirAll(to, 0o755))
	from := "/usr/lib/systemd/system"
	if _, err := os.Stat(from); err != nil {
		from = "/lib/systemd/system"
	}
	out, err := exec.CommandContext(t.Context(), "cp", "-a", from+"/.", to).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, unit := range units(t) {
		text, err := os.ReadFile(unit)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(to, unit), text, 0o644))
	}
	binaries := netlabtest.Binaries(t)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "usr/bin"), 0o755))
	for _, b := range []string{binaries.Twill, binaries.Twilld} {
		text, err := os.ReadFile(b)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "usr/bin", filepath.Base(b)), text, 0o755))
	}
	return dir
}

// verify returns what systemd has against our units below a root directory.
func verify(t *testing.T, root string) (complaints string, err error) {
	t.Helper()
	args := append([]string{"verify", "--man=no", "--root=" + root}, units(t)...)
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", args...).CombinedOutput()
	return string(out), err
}

func TestVerify(t *testing.T) {
	t.Parallel()
	dir := root(t)
	out, err := verify(t, dir)
	require.NoError(t, err, "%s", out)
	require.Empty(t, out)

	// That it can fail: a program that is missing, a key that is misspelled.
	unit := filepath.Join(dir, "usr/lib/systemd/system/twilld.service")
	text, err := os.ReadFile(unit)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(unit, []byte(strings.Replace(string(text), "WatchdogSec", "WatchDogs", 1)), 0o644))
	require.NoError(t, os.Remove(filepath.Join(dir, "usr/bin/twill")))
	out, err = verify(t, dir)
	require.Error(t, err)
	require.Contains(t, out, "WatchDogs")
	require.Contains(t, out, "/usr/bin/twill is not executable")
}

// exposure is the last line of systemd-analyze security.
var exposure = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)

func TestSecurity(t *testing.T) {
	t.Parallel()
	for _, unit := range units(t) {
		if filepath.Ext(unit) != ".service" {
			continue
		}
		path, err := filepath.Abs(unit)
		require.NoError(t, err)
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--no-pager", "--offline=true", path).CombinedOutput()
		require.NoError(t, err, "%s", out)
		found := exposure.FindSubmatch(out)
		require.NotNil(t, found, "%s", out)
		level, err := strconv.ParseFloat(string(found[1]), 64)
		require.NoError(t, err)
		require.LessOrEqual(t, level, 3.0, "%s", out)
		t.Logf("%s: %.1f", unit, level)
	}
}

// variables are the names that a pattern finds in a file, each once.
func variables(t *testing.T, file, pattern string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	names := map[string]bool{}
	for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
		names[string(m[1])] = true
	}
	require.NotEmpty(t, names)
	return names
}

// The environment files have every variable, each commented out: what the
// programs do by default is written in one place.
func TestEnvironmentFiles(t *testing.T) {
	t.Parallel()
	help := func(command ...string) string {
		out, err := exec.CommandContext(t.Context(), command[0], append(command[1:], "--help")...).CombinedOutput()
		require.NoError(t, err)
		return string(out)
	}
	binaries := netlabtest.Binaries(t)
	flags := regexp.MustCompile(`(?m)^ +(?:-., )?--?([a-z0-9][a-z0-9-]+)`)
	for _, tt := range []struct {
		file, prefix, help string
		not                []string // flags that no file should set
		beside             string   // prefix of other variables there
	}{
		{"twilld.env", "TWILLD_", help(binaries.Twilld), []string{"cleanup", "version"}, ""},
		{"twill-store.env", "TWILL_STORE_", help(binaries.Twill, "store"), []string{"help"}, "TWILLD_ETCD_"},
	} {
		want := map[string]bool{}
		for _, m := range flags.FindAllStringSubmatch(tt.help, -1) {
			want[tt.prefix+strings.ToUpper(strings.ReplaceAll(m[1], "-", "_"))] = true
		}
		for _, f := range tt.not {
			delete(want, tt.prefix+strings.ToUpper(f))
		}
		have := variables(t, tt.file, `(?m)^#([A-Z0-9_]+)=`)
		for name := range want {
			require.True(t, have[name], "%s lacks %s", tt.file, name)
		}
		for name := range have {
			known := want[name] || strings.HasPrefix(name, "TWILL_STORE_BACKUP_") || (tt.beside != "" && strings.HasPrefix(name, tt.beside))
			require.True(t, known, "%s has %s, which is nothing's", tt.file, name)
		}
		text, err := os.ReadFile(tt.file)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			require.True(t, line == "\n" || line[0] == '#', "%s sets something: %s", tt.file, line)
		}
	}
}

// The network managers keep off our links and the pods', and off nothing that
// could be the administrator's. Networkd and udev match by fnmatch(3), and
// NetworkManager by * and ? alone; path.Match is the same for these patterns.
func TestForeignLinksStayManaged(t *testing.T) {
	t.Parallel()
	for file, key := range map[string]string{
		"network/05-twill.network":         "Name",
		"network/05-twill.link":            "OriginalName",
		"NetworkManager/conf.d/twill.conf": "match-device",
	} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		found := regexp.MustCompile(`(?m)^` + key + `=(.+)$`).FindSubmatch(text)
		require.NotNil(t, found, file)
		specs := strings.FieldsFunc(string(found[1]), func(r rune) bool { return r == ' ' || r == ';' })
		matches := func(link string) (yes bool) {
			for _, spec := range specs {
				pattern, not := strings.CutPrefix(spec, "except:")
				pattern, nm := strings.CutPrefix(pattern, "interface-name:")
				require.Equal(t, key == "match-device", nm, spec)
				require.False(t, nm && strings.Contains(pattern, "["), "NetworkManager knows no ranges: %s", spec)
				ok, err := path.Match(pattern, link)
				require.NoError(t, err, spec)
				if ok && not {
					return false
				}
				yes = yes || ok
			}
			return yes
		}
		for _, link := range []string{"twill.1", "twill.4096", "twill-v6.1", "cni0", "veth0a1b2c3d", "vethdeadbeef", "veth12345678"} {
			require.True(t, matches(link), "%s: %s", file, link)
		}
		for _, link := range []string{"veth-lan", "veth-uplink1", "veth0", "vethernet", "veth0a1b2c3d4", "veth0a1b2c3", "eth0", "cni1", "twill", "br-lan"} {
			require.False(t, matches(link), "%s: %s", file, link)
		}
	}
}

// A service that sees a read-only file system may write to its default
// directory; for another one its environment file says what is needed.
func TestDirectoriesElsewhere(t *testing.T) {
	t.Parallel()
	env, err := os.ReadFile("twill-store.env")
	require.NoError(t, err)
	for unit, variable := range map[string]string{
		"twill-store":        "TWILL_STORE_DATA_DIR",
		"twill-store-backup": "TWILL_STORE_BACKUP_DIR",
	} {
		text, err := os.ReadFile(unit + ".service")
		require.NoError(t, err)
		require.Contains(t, string(text), "\nProtectSystem=strict\n")
		state := regexp.MustCompile(`(?m)^StateDirectory=(.+)$`).FindSubmatch(text)
		require.NotNil(t, state, unit)
		comment := regexp.MustCompile(`(?m)((?:^# .*\n)+)#` + variable + `=/var/lib/` + string(state[1]) + `$`).FindSubmatch(env)
		require.NotNil(t, comment, variable)
		require.Contains(t, string(comment[1]), "systemctl edit "+unit+": [Service] ReadWritePaths=")
	}
}

// What is here is in a package.
func TestEverythingIsPackaged(t *testing.T) {
	t.Parallel()
	config, err := os.ReadFile("../packages/twill.yaml")
	require.NoError(t, err)
	err = fs.WalkDir(os.DirFS("."), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Ext(path) != ".go" {
			require.Contains(t, string(config), "src: ../systemd/"+path+",")
		}
		return err
	})
	require.NoError(t, err)
}
