package cni

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
)

// confKeys are the keys of a network config: ours, and those which the CNI
// spec has the runtime insert or pass on.
var confKeys = []string{"args", "capabilities", "cniVersion", "dataDir", "delegate", "device", "dns", "ipam", "name", "prevResult", "runtimeConfig", "spoofCheck", "subnetFile", "type"}

// Validate reports the first thing that ADD cannot accept; the error names the
// key, the value and what is allowed.
func (c Conf) Validate() error {
	if err := c.validate(); err != nil {
		return fmt.Errorf("checking the network config %q: %w", c.Name, err)
	}
	return nil
}

func (c Conf) validate() error {
	k, odd := oddKey(c.keys, func(k string) bool {
		// Keys with a slash are other people's, by the spec's convention.
		return slices.Contains(confKeys, k) || strings.Contains(k, "/")
	})
	if odd {
		return fmt.Errorf(`%s is not a key of type twill; want one of %s, and keys of the delegate plugin in "delegate"`, k, strings.Join(confKeys, ", "))
	}
	// flannel's plugin keeps its state in dataDir; we have none, and the key is
	// accepted.
	var dataDir string
	if err := decode(c.keys, "dataDir", &dataDir, "the path of a directory"); err != nil {
		return err
	}
	for _, path := range []struct{ key, value string }{{"subnetFile", c.SubnetFile}, {"dataDir", cmp.Or(dataDir, "/")}} {
		if !filepath.IsAbs(path.value) {
			return fmt.Errorf("%s is %q; want an absolute path", path.key, path.value)
		}
	}
	for _, k := range []string{"prevResult", "runtimeConfig"} {
		if err := decode(c.keys, k, new(object), "an object"); err != nil {
			return err
		}
	}
	if _, err := c.spoofCheck(); err != nil {
		return err
	}
	if _, err := c.hasDevice(); err != nil {
		return err
	}
	if err := c.validateDelegate(); err != nil {
		return err
	}
	return c.validateIPAM()
}

// spoofCheck reports whether the daemon is to hold the pods of this network to
// their own source addresses; false for pods that carry others' (keepalived, a
// VPN).
func (c Conf) spoofCheck() (bool, error) {
	check := true
	err := decode(c.keys, "spoofCheck", &check, "true or false")
	return check, err
}

// hasDevice reports whether the subnet has a VXLAN device that STATUS can look
// for: with "device": "none" it has not (the backend alloc).
func (c Conf) hasDevice() (bool, error) {
	const want = `"auto" (the VXLAN device that carries the subnet's address) or "none" (the backend makes none)`
	device := deviceAuto
	err := decode(c.keys, "device", &device, want)
	if err == nil && device != deviceAuto && device != deviceNone {
		err = unlike("device", c.keys["device"], want)
	}
	return device != deviceNone, err
}

// The values of the key device.
const (
	deviceAuto = "auto"
	deviceNone = "none"
)

func (c Conf) validateDelegate() error {
	if err := checkCase("delegate", c.delegate, "args", "cniVersion", "dns", "ipMasq", "ipam", "isGateway", "mtu", "name", "prevResult", "runtimeConfig", "type"); err != nil {
		return err
	}
	if raw, ok := c.delegate["name"]; ok {
		return fmt.Errorf("delegate.name is %s; leave it out, the delegate gets the network's name", raw)
	}
	if _, ok := c.delegate["ipam"]; ok {
		return fmt.Errorf(`delegate.ipam is not allowed; want the IPAM plugin's keys in "ipam", beside "delegate"`)
	}
	if _, err := c.delegateType(); err != nil {
		return err
	}
	_, err := c.userMasquerades()
	return err
}

// delegateType returns the delegate plugin, bridge unless said otherwise;
// never ourselves, or each process would start the next.
func (c Conf) delegateType() (string, error) {
	t, err := pluginName(c.delegate, "delegate", "bridge")
	if err == nil && (t == c.Type || t == "twill") {
		err = fmt.Errorf("delegate.type is %q, which is this plugin; want another, such as bridge", t)
	}
	return t, err
}

// ipamType returns the IPAM plugin, host-local unless said otherwise.
func (c Conf) ipamType() (string, error) {
	return pluginName(c.ipam, "ipam", "host-local")
}

func pluginName(o object, in, name string) (string, error) {
	want := "the name of a plugin, such as " + name
	if err := decode(o, "type", &name, want); err != nil {
		return "", fmt.Errorf("%s.%w", in, err)
	}
	if name == "" || strings.ContainsRune(name, filepath.Separator) {
		return "", fmt.Errorf("%s.%w", in, unlike("type", o["type"], want))
	}
	return name, nil
}

// userMasquerades returns delegate.ipMasq, nil when absent.
func (c Conf) userMasquerades() (masq *bool, err error) {
	if err := decode(c.delegate, "ipMasq", &masq, "true or false"); err != nil {
		return nil, fmt.Errorf("delegate.%w", err)
	}
	return masq, nil
}

// limitKeys narrow the range that host-local takes addresses from.
var limitKeys = []string{"rangeStart", "rangeEnd", "gateway"}

func (c Conf) validateIPAM() error {
	if err := checkCase("ipam", c.ipam, append([]string{"ranges", "routes", "subnet", "type"}, limitKeys...)...); err != nil {
		return err
	}
	for _, k := range []string{"subnet", "ranges"} {
		if raw, ok := c.ipam[k]; ok {
			return fmt.Errorf("ipam.%w", unlike(k, raw, "none: addresses come from the node's subnet in "+c.SubnetFile))
		}
	}
	if _, err := c.ipamType(); err != nil {
		return err
	}
	if _, _, err := c.userRoutes(); err != nil {
		return err
	}
	_, err := c.limits()
	return err
}

// userRoutes returns ipam.routes as they were written, and where they lead.
func (c Conf) userRoutes() (routes []json.RawMessage, dsts []netip.Prefix, err error) {
	const want = `a list such as [{"dst":"10.96.0.0/12"}]`
	if err := decode(c.ipam, "routes", &routes, want); err != nil {
		return nil, nil, fmt.Errorf("ipam.%w", err)
	}
	for _, raw := range routes {
		var r struct{ Dst netip.Prefix }
		if err := json.Unmarshal(raw, &r); err != nil || !r.Dst.IsValid() {
			return nil, nil, fmt.Errorf("ipam.%w", unlike("routes", c.ipam["routes"], want))
		}
		dsts = append(dsts, r.Dst)
	}
	return routes, dsts, nil
}

// limits returns the addresses of those limitKeys that are given.
func (c Conf) limits() (map[string]netip.Addr, error) {
	limits := map[string]netip.Addr{}
	for _, k := range limitKeys {
		raw, ok := c.ipam[k]
		if !ok {
			continue
		}
		var a netip.Addr
		if err := json.Unmarshal(raw, &a); err != nil || !a.IsValid() {
			return nil, fmt.Errorf("ipam.%w", unlike(k, raw, "an address of the node's subnet"))
		}
		limits[k] = a
	}
	return limits, nil
}
