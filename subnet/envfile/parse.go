package envfile

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/twill-net/twill/subnet"
)

// fault is one thing wrong with one key; Parse adds the line.
type fault struct {
	key, text string
	line      int
}

func (f *fault) Error() string {
	if f.line > 0 {
		return fmt.Sprintf("line %d: %s", f.line, f.text)
	}
	return f.text
}

func refuse(key, value, format string, args ...any) *fault {
	return &fault{key: key, text: fmt.Sprintf("%s=%q: ", key, value) + fmt.Sprintf(format, args...)}
}

func missing(key, format string, args ...any) *fault {
	return &fault{key: key, text: key + " is missing: " + fmt.Sprintf(format, args...)}
}

// Parse reads the content of subnet.env: lines KEY=value, empty lines and
// lines that begin with #. Unknown keys are passed over, since flannel and k3s
// may add their own; a known key given twice, or a value that is not of its
// kind, is an error which names line, key, value and what is allowed.
func Parse(b []byte) (Env, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return Env{}, errors.New("the file is empty: its writer was cut off or is not done; want lines such as FLANNEL_SUBNET=10.5.52.1/24")
	}
	vars, err := split(string(b))
	if err != nil {
		return Env{}, err
	}
	e, err := decode(vars)
	if err == nil {
		err = e.Validate()
	}
	if at := (*fault)(nil); errors.As(err, &at) {
		at.line = vars[at.key].line
	}
	if err != nil {
		return Env{}, err
	}
	return e, nil
}

type variable struct {
	value string
	line  int
}

func split(s string) (map[string]variable, error) {
	vars := map[string]variable{}
	line := 0
	for l := range strings.Lines(s) {
		line++
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("line %d: %q: want KEY=value", line, l)
		}
		if first, ok := vars[k]; ok && known(k) {
			return nil, fmt.Errorf("line %d: %s=%q: the key was given in line %d already; want it once", line, k, v, first.line)
		}
		vars[k] = variable{value: v, line: line}
	}
	return vars, nil
}

func known(k string) bool {
	for _, f := range subnet.Families {
		if k == key(f, "NETWORK") || k == key(f, "SUBNET") {
			return true
		}
	}
	return k == "FLANNEL_MTU" || k == "FLANNEL_IPMASQ"
}

// decode turns values into their types; whether they fit together is for
// Env.Validate.
func decode(vars map[string]variable) (e Env, err error) {
	for _, f := range subnet.Families {
		if e.Networks[f], err = decodeCIDRs(f, vars); err != nil {
			return e, err
		}
		k := key(f, "SUBNET")
		if v, ok := vars[k]; ok {
			if e.Subnets[f], err = netip.ParsePrefix(v.value); err != nil {
				return e, refuse(k, v.value, "want the first host address of the subnet with its length, such as %s", Gateway(netip.MustParsePrefix(exampleCIDR(f))))
			}
		}
	}
	mtu, ok := vars["FLANNEL_MTU"]
	if !ok {
		return e, missing("FLANNEL_MTU", "the file is incomplete; want the pods' MTU in bytes")
	}
	if e.MTU, err = strconv.Atoi(mtu.value); err != nil {
		return e, refuse("FLANNEL_MTU", mtu.value, "want a number of bytes such as 1450")
	}
	masq, ok := vars["FLANNEL_IPMASQ"]
	switch {
	case !ok:
		return e, missing("FLANNEL_IPMASQ", "the file is incomplete; want true or false")
	case masq.value != "true" && masq.value != "false":
		return e, refuse("FLANNEL_IPMASQ", masq.value, "want true or false")
	}
	e.IPMasq = masq.value == "true"
	return e, nil
}

func decodeCIDRs(f subnet.Family, vars map[string]variable) ([]netip.Prefix, error) {
	k := key(f, "NETWORK")
	v, ok := vars[k]
	if !ok {
		return nil, nil
	}
	var networks []netip.Prefix
	for s := range strings.SplitSeq(v.value, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return nil, refuse(k, v.value, "want CIDRs separated by commas, such as %s", exampleCIDR(f))
		}
		networks = append(networks, p)
	}
	return networks, nil
}
