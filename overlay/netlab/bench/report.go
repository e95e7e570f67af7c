package bench

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Report is all that came out of a run, as it is written as JSON.
type Report struct {
	Time    time.Time
	Seconds float64 // that the run took
	Version string  // of twilld
	Kernel  string
	CPU     string
	Cores   int
	Quick   bool
	Load    string  // /proc/loadavg when it began
	Binary  float64 // size of twilld, MB

	Limits   []*ControlLimit `json:",omitempty"`
	Control  []*Control      `json:",omitempty"`
	Kube     *Kube           `json:",omitempty"`
	Idle     []*Idle         `json:",omitempty"`
	Repairs  []*Repair       `json:",omitempty"`
	Survival []*Survival     `json:",omitempty"`
	Soaks    []*Soak         `json:",omitempty"`
	Paths    []*Path         `json:",omitempty"`
	CNI      []*Attach       `json:",omitempty"`
}

func newReport(o Options) *Report {
	r := &Report{Time: time.Now().UTC().Truncate(time.Second), Cores: runtime.NumCPU(), Quick: o.Quick}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		r.Kernel = strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.Load = strings.TrimSpace(string(b))
	}
	if b, err := exec.Command(o.Binaries.Twilld, "--version").Output(); err == nil {
		r.Version = strings.TrimSpace(string(b))
	}
	if info, err := os.Stat(o.Binaries.Twilld); err == nil {
		r.Binary = float64(info.Size()) / 1e6
	}
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if name, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(name) == "model name" {
				r.CPU = strings.TrimSpace(value)
			}
		}
	}
	return r
}

// quantile returns the value below which a share q of the values is; 0 of none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low == len(sorted)-1 {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// spread writes a median with its quartiles.
func spread(values []float64, digits int) string {
	if len(values) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.*f [%.*f–%.*f]", digits, median(values), digits, quantile(values, 0.25), digits, quantile(values, 0.75))
}
