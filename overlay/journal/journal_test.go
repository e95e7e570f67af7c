package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
)

func TestFormat(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	log.SetLevel(logrus.DebugLevel)
	log.SetFormatter(Formatter{})
	log.WithField("subnet", "10.244.3.0/24").Info("lease held")
	log.WithError(errors.New("two\nlines")).Warn("will retry")
	log.Error("stopped")
	log.Debug("an\nentry")
	require.Equal(t, `<6>level=info msg="lease held" subnet=10.244.3.0/24
<4>level=warning msg="will retry" error="two\nlines"
<3>level=error msg=stopped
<7>level=debug msg="an\nentry"
`, out.String())
}

// The variable is what tells: it names the file that systemd has opened.
func TestIsStderr(t *testing.T) {
	if os.Getenv("TWILL_TEST_STDERR") != "" {
		fmt.Print(IsStderr(os.Stderr), " ", IsStderr(os.Stdout))
		os.Exit(0)
	}
	t.Parallel()
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	require.NoError(t, err)
	defer file.Close()
	info, err := file.Stat()
	require.NoError(t, err)
	st := info.Sys().(*syscall.Stat_t)
	for _, tt := range []struct{ stream, want string }{
		{fmt.Sprintf("%d:%d", st.Dev, st.Ino), "true false"},
		{fmt.Sprintf("%d:%d", st.Dev, st.Ino+1), "false false"}, // inherited, and redirected since
		{"", "false false"},
		{"nonsense", "false false"},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestIsStderr$")
		cmd.Env = append(os.Environ(), "TWILL_TEST_STDERR=1", "GORACE=atexit_sleep_ms=0", "JOURNAL_STREAM="+tt.stream)
		cmd.Stderr = file
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, tt.want, string(out), tt.stream)
	}
}
