package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// DefaultSubnetFile is the path of subnet.env unless the network config says
// otherwise.
const DefaultSubnetFile = "/run/twill/subnet.env"

// object is a JSON object whose values are kept as they were written.
type object = map[string]json.RawMessage

// Conf is a network config of type twill as a runtime writes it to stdin.
type Conf struct {
	// CNIVersion is the spec's version, "0.1.0" when absent, as the spec says.
	CNIVersion string
	// Name is the network's, which host-local keeps its addresses by.
	Name string
	// Type is the name under which the runtime called us.
	Type string
	// SubnetFile is the path of subnet.env.
	SubnetFile string

	keys     object // all of them
	delegate object
	ipam     object
}

// Load reads a network config. It refuses what it cannot read at all; what
// ADD and CHECK do not accept is for Validate, since DEL must work with
// whatever the config has become.
func Load(stdin []byte) (Conf, error) {
	c := Conf{CNIVersion: "0.1.0", SubnetFile: DefaultSubnetFile}
	if err := json.Unmarshal(stdin, &c.keys); err != nil {
		return Conf{}, fmt.Errorf("reading the network config: %w", err)
	}
	for _, f := range []struct {
		key  string
		to   any
		want string
	}{
		{"cniVersion", &c.CNIVersion, "a version of the CNI spec, such as \"1.1.0\""},
		{"name", &c.Name, "the network's name"},
		{"type", &c.Type, "\"twill\""},
		{"subnetFile", &c.SubnetFile, "the path of subnet.env"},
		{"delegate", &c.delegate, "an object with keys of the delegate plugin, such as {\"hairpinMode\":true}"},
		{"ipam", &c.ipam, "an object with keys of the IPAM plugin, such as {\"routes\":[{\"dst\":\"10.96.0.0/12\"}]}"},
	} {
		if string(c.keys[f.key]) == `""` {
			continue // as good as absent, for flannel's plugin too
		}
		if err := decode(c.keys, f.key, f.to, f.want); err != nil {
			return Conf{}, fmt.Errorf("reading the network config: %w", err)
		}
	}
	if c.Name == "" {
		return Conf{}, errors.New("reading the network config: name is missing; want the network's name")
	}
	return c, nil
}

// decode reads o[key], if it is there, and says what was wanted if it cannot.
func decode(o object, key string, to any, want string) error {
	raw, ok := o[key]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, to); err != nil {
		return unlike(key, raw, want)
	}
	return nil
}

func unlike(key string, raw json.RawMessage, want string) error {
	const enough = 80
	s := string(raw)
	if len(s) > enough {
		s = s[:enough] + "…"
	}
	return fmt.Errorf("%s is %s; want %s", key, s, want)
}

// oddKey returns the first key, by name, of which ok says no.
func oddKey(o object, ok func(string) bool) (string, bool) {
	for _, k := range slices.Sorted(maps.Keys(o)) {
		if !ok(k) {
			return k, true
		}
	}
	return "", false
}

// checkCase refuses a key that is one of known but for case. The plugins
// decode without regard to case (encoding/json), so that two spellings of one
// key would both be written and one be lost without a word.
func checkCase(in string, o object, known ...string) error {
	for _, want := range known {
		k, odd := oddKey(o, func(k string) bool { return k == want || !strings.EqualFold(k, want) })
		if odd {
			return fmt.Errorf("%s.%s is spelled %s", in, k, want)
		}
	}
	return nil
}
