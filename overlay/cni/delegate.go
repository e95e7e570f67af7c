package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/envfile"
)

// Delegate is a delegate plugin with its config.
type Delegate struct {
	// Type is the plugin's file name in CNI_PATH.
	Type string
	// JSON is what it gets on stdin.
	JSON []byte
	// Masquerades is true when the config has it masquerade for the pod.
	Masquerades bool
}

// Delegate returns the config for ADD and STATUS. The user's keys win over our
// defaults: ipMasq the opposite of FLANNEL_IPMASQ, mtu FLANNEL_MTU, isGateway
// for a bridge, and masqBackend ("" for none) as ipMasqBackend of those that
// masquerade. The IPAM plugin gets one range for each family, the user's routes
// and one for each overlay network.
func (c Conf) Delegate(env envfile.Env, masqBackend string) (Delegate, error) {
	ipam, err := c.ipamConf(env)
	if err != nil {
		return Delegate{}, c.unbuilt(err)
	}
	d, conf, err := c.build(&env, ipam)
	if err != nil {
		return Delegate{}, c.unbuilt(err)
	}
	if _, users := conf["ipMasqBackend"]; d.Masquerades && !users && masqBackend != "" && slices.Contains(masqueraders, d.Type) {
		conf["ipMasqBackend"] = masqBackend
	}
	if d.JSON, err = json.Marshal(conf); err != nil {
		return Delegate{}, c.unbuilt(err)
	}
	return d, nil
}

// Attached returns the config for CHECK, DEL and GC of pods that are there
// already. It must never fail where ADD succeeded: env is nil when subnet.env
// is gone or cannot be read, and may have changed since ADD. prevResult
// replaces that of the request; nil leaves it out. more is laid over all.
func (c Conf) Attached(env *envfile.Env, prevResult json.RawMessage, more object) (Delegate, error) {
	ipam, err := c.attachedIPAM(env)
	if err != nil {
		return Delegate{}, c.unbuilt(err)
	}
	d, conf, err := c.build(env, ipam)
	if err != nil {
		return Delegate{}, c.unbuilt(err)
	}
	if slices.Contains(masqueraders, d.Type) {
		conf["ipMasq"], d.Masquerades = false, false // we do, see rules
	}
	delete(conf, "prevResult")
	if prevResult != nil {
		conf["prevResult"] = prevResult
	}
	for k, v := range more {
		conf[k] = v
	}
	if d.JSON, err = json.Marshal(conf); err != nil {
		return Delegate{}, c.unbuilt(err)
	}
	return d, nil
}

func (c Conf) unbuilt(err error) error {
	return fmt.Errorf("building the delegate's config for network %q: %w", c.Name, err)
}

// build lays the user's keys over the defaults, and over them what the spec
// has a plugin hand on: name, version, runtimeConfig and prevResult.
func (c Conf) build(env *envfile.Env, ipam map[string]any) (d Delegate, conf map[string]any, err error) {
	if d.Type, err = c.delegateType(); err != nil {
		return Delegate{}, nil, err
	}
	conf = map[string]any{}
	if env != nil {
		conf["mtu"], conf["ipMasq"] = env.MTU, !env.IPMasq
		d.Masquerades = !env.IPMasq
	}
	if d.Type == "bridge" {
		conf["isGateway"] = true
	}
	for _, k := range []string{"args", "dns"} {
		if raw, ok := c.keys[k]; ok {
			conf[k] = raw
		}
	}
	for k, raw := range c.delegate {
		conf[k] = raw
	}
	if masq, err := c.userMasquerades(); err == nil && masq != nil {
		d.Masquerades = *masq
	}
	for _, k := range []string{"prevResult", "runtimeConfig"} {
		delete(conf, k)
		if o := (object)(nil); decode(c.keys, k, &o, "") == nil && o != nil {
			conf[k] = o
		}
	}
	conf["cniVersion"], conf["name"], conf["type"], conf["ipam"] = c.CNIVersion, c.Name, d.Type, ipam
	return d, conf, nil
}

// masquerades reports whether the delegate would do so for a new pod.
func (c Conf) masquerades(env envfile.Env) bool {
	if masq, err := c.userMasquerades(); err == nil && masq != nil {
		return *masq
	}
	return !env.IPMasq
}

// hostRange is a range of host-local's config.
type hostRange struct {
	Subnet     netip.Prefix `json:"subnet"`
	RangeStart netip.Addr   `json:"rangeStart,omitzero"`
	RangeEnd   netip.Addr   `json:"rangeEnd,omitzero"`
	Gateway    netip.Addr   `json:"gateway,omitzero"`
}

// ipamConf returns the IPAM plugin's config for ADD.
func (c Conf) ipamConf(env envfile.Env) (map[string]any, error) {
	conf, err := c.ipamBase()
	if err != nil {
		return nil, err
	}
	routes, err := c.routes(env)
	if err != nil {
		return nil, err
	}
	limits, err := c.limits()
	if err != nil {
		return nil, err
	}
	ranges := [][]hostRange{}
	for _, f := range subnet.Families {
		if !env.Subnets[f].IsValid() {
			continue
		}
		r := hostRange{Subnet: env.Subnets[f].Masked()}
		for k, to := range map[string]*netip.Addr{"rangeStart": &r.RangeStart, "rangeEnd": &r.RangeEnd, "gateway": &r.Gateway} {
			if a := limits[k]; a.IsValid() && r.Subnet.Contains(a) {
				*to = a
				delete(limits, k)
			}
		}
		ranges = append(ranges, []hostRange{r})
	}
	for _, k := range limitKeys {
		if a, left := limits[k]; left {
			return nil, fmt.Errorf("ipam.%s is %s; want an address of the node's subnet, %s", k, a, subnetsOf(env))
		}
	}
	conf["ranges"], conf["routes"] = ranges, routes
	return conf, nil
}

// attachedIPAM returns the IPAM plugin's config for CHECK and DEL. host-local
// finds what a pod holds by container and interface, whatever the range; but
// it insists on a range, and on one that does not overlap those of
// runtimeConfig. So it gets one nobody uses (RFC 5737). Another IPAM plugin
// gets what ADD gave it, as far as that can still be known.
func (c Conf) attachedIPAM(env *envfile.Env) (map[string]any, error) {
	t, err := c.ipamType()
	if err != nil {
		return nil, err
	}
	if t != "host-local" && env != nil {
		if conf, err := c.ipamConf(*env); err == nil {
			return conf, nil
		}
	}
	conf, err := c.ipamBase()
	if err != nil {
		return nil, err
	}
	if t == "host-local" {
		delete(conf, "routes")
		conf["ranges"] = [][]hostRange{{{Subnet: netip.MustParsePrefix("192.0.2.0/24")}}}
	}
	return conf, nil
}

// ipamBase returns the user's keys without those that we write ourselves.
func (c Conf) ipamBase() (map[string]any, error) {
	t, err := c.ipamType()
	if err != nil {
		return nil, err
	}
	conf := map[string]any{}
	for k, raw := range c.ipam {
		if k != "subnet" && k != "ranges" && !slices.Contains(limitKeys, k) {
			conf[k] = raw
		}
	}
	conf["type"] = t
	return conf, nil
}

// routes returns the user's routes and one for each overlay network that they
// do not name themselves.
func (c Conf) routes(env envfile.Env) ([]any, error) {
	users, dsts, err := c.userRoutes()
	if err != nil {
		return nil, err
	}
	routes := []any{}
	for _, r := range users {
		routes = append(routes, r)
	}
	for _, f := range subnet.Families {
		for _, n := range env.Networks[f] {
			if !slices.Contains(dsts, n) {
				routes = append(routes, map[string]netip.Prefix{"dst": n})
				dsts = append(dsts, n)
			}
		}
	}
	return routes, nil
}

func subnetsOf(env envfile.Env) string {
	s := ""
	for _, f := range subnet.Families {
		if env.Subnets[f].IsValid() {
			if s != "" {
				s += " or "
			}
			s += env.Subnets[f].Masked().String()
		}
	}
	return s
}
