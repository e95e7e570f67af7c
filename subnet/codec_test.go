package subnet_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

func TestKeys(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key    string
		v4, v6 string
		again  string // "" for the same
	}{
		{key: "10.5.52.0-24", v4: "10.5.52.0/24"},
		{key: "10.12.13.0-24&fd00:12:13::-56", v4: "10.12.13.0/24", v6: "fd00:12:13::/56"},
		{key: "0.0.0.0-0&fd00:12:13::-56", v6: "fd00:12:13::/56"},
		{key: "fd00:12:13::-56", v6: "fd00:12:13::/56", again: "0.0.0.0-0&fd00:12:13::-56"},
		{key: "FD00:12:13:0::-56", v6: "fd00:12:13::/56", again: "0.0.0.0-0&fd00:12:13::-56"},
		{key: "10.5.52.1-32", v4: "10.5.52.1/32"},
		{key: "0.0.0.0-1", v4: "0.0.0.0/1"},
	} {
		got, err := subnet.DecodeKey(c.key)
		require.NoError(t, err, c.key)
		require.Equal(t, prefixes(c.v4, c.v6), got, c.key)
		if c.again == "" {
			c.again = c.key
		}
		require.Equal(t, c.again, subnet.EncodeKey(got), c.key)
	}
}

func TestDecodeKeyRefuses(t *testing.T) {
	t.Parallel()
	for key, why := range map[string]string{
		"":                              `"" lacks the prefix length`,
		"config":                        `"config" lacks the prefix length`,
		"10.5.52.0":                     `"10.5.52.0" lacks the prefix length`,
		"10.5.52.0/24":                  `"10.5.52.0/24" lacks the prefix length`,
		"10.5.52.0/24-24":               `"10.5.52.0/24-24" is not an address and a prefix length`,
		"10.5.52.0-":                    `"10.5.52.0-" is not an address and a prefix length`,
		"-24":                           `"-24" is not an address and a prefix length`,
		"10.5.52.0-33":                  `"10.5.52.0-33" is not an address and a prefix length`,
		"10.5.52.0--1":                  `"10.5.52.0--1" is not an address and a prefix length`,
		"10.5.52.0-024":                 `"10.5.52.0-024" is not an address and a prefix length`,
		"010.5.52.0-24":                 `"010.5.52.0-24" is not an address and a prefix length`,
		"fd00::%eth0-64":                `"fd00::%eth0-64" is not an address and a prefix length`,
		"::ffff:10.5.52.0-120":          `"::ffff:10.5.52.0-120" is not an address and a prefix length`,
		"10.5.52.0-24&":                 `"" lacks the prefix length`,
		"10.5.52.0-24 &fd00::-64":       `"10.5.52.0-24 " is not an address and a prefix length`,
		"10.5.52.1-24":                  `10.5.52.1/24 has host bits set; its subnet is 10.5.52.0/24`,
		"10.5.52.0-24&fd00::1-64":       `fd00::1/64 has host bits set; its subnet is fd00::/64`,
		"10.5.52.0-24&10.5.53.0-24":     `10.5.53.0/24 is out of place: at most one IPv4 subnet, then one IPv6 subnet`,
		"0.0.0.0-0&10.5.53.0-24":        `10.5.53.0/24 is out of place: at most one IPv4 subnet, then one IPv6 subnet`,
		"fd00::-64&10.5.52.0-24":        `10.5.52.0/24 is out of place: at most one IPv4 subnet, then one IPv6 subnet`,
		"10.5.5.0-24&fd0::-64&fd1::-64": `fd1::/64 is out of place: at most one IPv4 subnet, then one IPv6 subnet`,
		"0.0.0.0-0":                     `it names no subnet`,
	} {
		got, err := subnet.DecodeKey(key)
		require.EqualError(t, err, `lease key "`+key+`": `+why+" (want 10.5.52.0-24 or 10.5.52.0-24&fd00:12:13::-56)", key)
		require.Zero(t, got, key)
	}
	_, err := subnet.DecodeKey(strings.Repeat("\x1b", 1000))
	require.EqualError(t, err, `lease key "`+strings.Repeat("\ufffd", 21)+`…": "`+strings.Repeat("\ufffd", 21)+
		`…" lacks the prefix length (want 10.5.52.0-24 or 10.5.52.0-24&fd00:12:13::-56)`)
}

const (
	vxlanData   = `{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`
	vxlanV6Data = `{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:f0"}`
)

// The bytes are flannel's, members that flannel writes first; NodeName and
// MachineID follow where there are any.
func TestValues(t *testing.T) {
	t.Parallel()
	subnets := prefixes("10.5.52.0/24", "")
	ips := func(v4, v6 string) (ips subnet.PerFamily[netip.Addr]) {
		if v4 != "" {
			ips[subnet.IPv4] = addr(v4)
		}
		if v6 != "" {
			ips[subnet.IPv6] = addr(v6)
		}
		return ips
	}
	for _, c := range []struct {
		name, doc string
		want      subnet.Lease
		again     string // "" for the same
	}{
		{
			name: "flannel's, IPv4",
			doc:  `{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":` + vxlanData + `}`,
			want: subnet.Lease{PublicIPs: ips("192.168.64.3", ""), BackendType: "vxlan", BackendData: subnet.PerFamily[string]{vxlanData}},
		},
		{
			name: "flannel's, both families",
			doc:  `{"PublicIP":"192.168.64.3","PublicIPv6":"fd00::3","BackendType":"vxlan","BackendData":` + vxlanData + `,"BackendV6Data":` + vxlanV6Data + `}`,
			want: subnet.Lease{PublicIPs: ips("192.168.64.3", "fd00::3"), BackendType: "vxlan", BackendData: subnet.PerFamily[string]{vxlanData, vxlanV6Data}},
		},
		{
			name: "flannel's, IPv6", // its IPv4 address is never null
			doc:  `{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::3","BackendType":"vxlan","BackendV6Data":` + vxlanV6Data + `}`,
			want: subnet.Lease{PublicIPs: ips("", "fd00::3"), BackendType: "vxlan", BackendData: subnet.PerFamily[string]{"", vxlanV6Data}},
		},
		{
			name: "behind NAT",
			doc: `{"PublicIP":"192.168.64.3","PublicIPv6":"fd00::3","BackendType":"vxlan","BackendData":` + vxlanData +
				`,"SourceIP":"10.0.2.15","SourceIPv6":"fd02::15","NodeName":"a"}`,
			want: subnet.Lease{
				Node: "a", PublicIPs: ips("192.168.64.3", "fd00::3"), Sources: ips("10.0.2.15", "fd02::15"),
				BackendType: "vxlan", BackendData: subnet.PerFamily[string]{vxlanData},
			},
		},
		{
			name:  "no address, in each spelling",
			doc:   `{"PublicIP":null,"PublicIPv6":"::","BackendType":"vxlan","BackendData":null,"BackendV6Data":null,"NodeName":null}`,
			want:  subnet.Lease{BackendType: "vxlan"},
			again: `{"PublicIP":"0.0.0.0","PublicIPv6":null,"BackendType":"vxlan"}`,
		},
		{
			name: "Twill's",
			doc:  `{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":` + vxlanData + `,"NodeName":"n1","MachineID":"5e1f"}`,
			want: subnet.Lease{
				Node: "n1", MachineID: "5e1f", PublicIPs: ips("192.168.64.3", ""),
				BackendType: "vxlan", BackendData: subnet.PerFamily[string]{vxlanData},
			},
		},
		{
			name: "a reservation",
			doc:  `{"PublicIP":"0.0.0.0","PublicIPv6":null,"NodeName":"n1"}`,
			want: subnet.Lease{Node: "n1"},
		},
		{
			name:  "a reservation by hand",
			doc:   `{}`,
			want:  subnet.Lease{},
			again: `{"PublicIP":"0.0.0.0","PublicIPv6":null}`,
		},
		{
			name:  "members that we do not know",
			doc:   `{"zeta": [1, {"b": 2, "a": "<&>\u2028"}], "PublicIP": "192.168.64.3", "Alpha": null, "alpha": 1.50, "BackendType": "vxlan"}`,
			want:  subnet.Lease{PublicIPs: ips("192.168.64.3", ""), BackendType: "vxlan", Extra: `{"Alpha":null,"alpha":1.50,"zeta":[1,{"b":2,"a":"<&>\u2028"}]}`},
			again: `{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","Alpha":null,"alpha":1.50,"zeta":[1,{"b":2,"a":"<&>\u2028"}]}`,
		},
		{
			name:  "names in any case, as flannel's reader takes them",
			doc:   `{"publicip": "192.168.64.3", "BACKENDTYPE": "vxlan", "backenddata": {"VNI": 1, "VtepMAC": "aa:bb:cc:dd:ee:ff"}, "bac\u212aendV6Data": ` + vxlanV6Data + `}`,
			want:  subnet.Lease{PublicIPs: ips("192.168.64.3", ""), BackendType: "vxlan", BackendData: subnet.PerFamily[string]{vxlanData, vxlanV6Data}},
			again: `{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":` + vxlanData + `,"BackendV6Data":` + vxlanV6Data + `}`,
		},
		{
			name: "backend data is the backend's own business",
			doc:  `{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"later","BackendData":"<a&b>"}`,
			want: subnet.Lease{PublicIPs: ips("192.168.64.3", ""), BackendType: "later", BackendData: subnet.PerFamily[string]{`"<a&b>"`}},
		},
		{
			name: "a name beyond ASCII",
			doc:  `{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","NodeName":"knoten-ä"}`,
			want: subnet.Lease{Node: "knoten-ä", PublicIPs: ips("192.168.64.3", ""), BackendType: "vxlan"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.want.Subnets = subnets
			got, err := subnet.DecodeValue(subnets, []byte(c.doc))
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			b, err := subnet.EncodeValue(got)
			require.NoError(t, err)
			if c.again == "" {
				c.again = c.doc
			}
			require.Equal(t, c.again, string(b))
		})
	}
}

func TestDecodeValueRefuses(t *testing.T) {
	t.Parallel()
	const long = 1_000_000
	for _, c := range []struct{ name, doc, want string }{
		{"nothing", ``, `lease value : it must be one JSON object: it ends too early`},
		{"null", `null`, `lease value null: it must be one JSON object: it is not an object`},
		{"a list", "[1,\n\t2]", `lease value [1,  2]: it must be one JSON object: it is not an object`},
		{"no JSON", `hello`, `lease value hello: it must be one JSON object: invalid character 'h' looking for beginning of value`},
		{"bytes", "\x00\xff\x1b[31m", "lease value \ufffd\ufffd\ufffd[31m: it must be one JSON object: invalid character '\\x00' looking for beginning of value"},
		{"cut", `{"NodeName": "n1", "PublicIP": "192.16`, `lease value {"NodeName": "n1", "PublicIP": "192.16: it must be one JSON object: it ends too early`},
		{"two", `{"NodeName": "n1"} {}`, `lease value {"NodeName": "n1"} {}: it must be one JSON object: something follows the object`},
		{
			"long", `{"NodeName": "n1", "a": "` + strings.Repeat("a", long),
			`lease value {"NodeName": "n1", "a": "` + strings.Repeat("a", 39) + `…: it must be one JSON object: it ends too early`,
		},

		{"address of a number", `{"NodeName": "n1", "PublicIP": 3232251907}`, `lease value, PublicIP: 3232251907 is not a string`},
		{"address of an object", `{"NodeName": "n1", "PublicIPv6": {"a":1}}`, `lease value, PublicIPv6: {"a":1} is not a string`},
		{"address of garbage", `{"NodeName": "n1", "PublicIP": "here"}`, `lease value, PublicIP: "here" is not an IPv4 address`},
		{"address with port", `{"NodeName": "n1", "PublicIP": "192.168.64.3:8472"}`, `lease value, PublicIP: "192.168.64.3:8472" is not an IPv4 address`},
		{"address with length", `{"NodeName": "n1", "PublicIP": "192.168.64.3/24"}`, `lease value, PublicIP: "192.168.64.3/24" is not an IPv4 address`},
		{"IPv6 in PublicIP", `{"NodeName": "n1", "PublicIP": "fd00::3"}`, `lease value, PublicIP: "fd00::3" is not an IPv4 address`},
		{"IPv4 in PublicIPv6", `{"NodeName": "n1", "PublicIPv6": "192.168.64.3"}`, `lease value, PublicIPv6: "192.168.64.3" is not an IPv6 address`},
		{"mapped in PublicIPv6", `{"NodeName": "n1", "PublicIPv6": "::ffff:192.168.64.3"}`, `lease value, PublicIPv6: "::ffff:192.168.64.3" is not an IPv6 address`},
		{"mapped in PublicIP", `{"NodeName": "n1", "PublicIP": "::ffff:192.168.64.3"}`, `lease value, PublicIP: "::ffff:192.168.64.3" is not an IPv4 address`},
		{"zone", `{"NodeName": "n1", "PublicIPv6": "fe80::1%eth0"}`, `lease value, PublicIPv6: "fe80::1%eth0" is not an IPv6 address`},
		{"multicast", `{"NodeName": "n1", "PublicIP": "224.0.0.1"}`, `lease value, PublicIP: 224.0.0.1 cannot be the address of a node`},
		{"loopback", `{"NodeName": "n1", "PublicIP": "127.0.0.1"}`, `lease value, PublicIP: 127.0.0.1 cannot be the address of a node`},
		{"broadcast", `{"NodeName": "n1", "PublicIP": "255.255.255.255"}`, `lease value, PublicIP: 255.255.255.255 cannot be the address of a node`},
		{"IPv6 multicast", `{"NodeName": "n1", "PublicIPv6": "ff02::1"}`, `lease value, PublicIPv6: ff02::1 cannot be the address of a node`},
		{"IPv6 loopback", `{"NodeName": "n1", "PublicIPv6": "::1"}`, `lease value, PublicIPv6: ::1 cannot be the address of a node`},
		{"long address", `{"NodeName": "n1", "PublicIP": "` + strings.Repeat("1", long) + `"}`, `lease value, PublicIP: "` + strings.Repeat("1", 64) + `…" is not an IPv4 address`},

		{"type of a number", `{"NodeName": "n1", "BackendType": 5}`, `lease value, BackendType: 5 is not a string`},
		{"type of words", `{"NodeName": "n1", "BackendType": "vx lan"}`, `lease value, BackendType: "vx lan" is not a name: at most 253 bytes, printable and without spaces`},
		{"machine of a list", `{"NodeName": "n1", "MachineID": []}`, `lease value, MachineID: [] is not a string`},
		{"name twice", `{"NodeName": "n1", "nodename": "n2"}`, `lease value, nodename: it stands there as NodeName already`},
		{"address twice", `{"NodeName": "n1", "PublicIP": "192.168.64.3", "publicIP": "192.168.64.4"}`, `lease value, publicIP: it stands there as PublicIP already`},
		{"the same name twice", `{"NodeName": "n1", "PublicIP": "192.168.64.3", "PublicIP": "192.168.64.3"}`, `lease value, PublicIP: it stands there as PublicIP already`},
		{"an unknown member twice", `{"NodeName": "n1", "x": 1, "x": 2}`, `lease value, x: it stands there as x already`},
		{"the first of several", `{"NodeName": "n1", "PublicIP": 1, "BackendType": 2, "PublicIPv6": 3}`, `lease value, PublicIP: 1 is not a string`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l, err := subnet.DecodeValue(prefixes("10.5.52.0/24", ""), []byte(c.doc))
			require.EqualError(t, err, c.want)
			require.Equal(t, prefixes("10.5.52.0/24", ""), l.Subnets)
			if strings.HasPrefix(c.doc, `{"NodeName": "n1"`) {
				require.Equal(t, "n1", l.ID(), "a refused record is named")
			}
		})
	}
}

func TestDecodeValueRefusesNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"a b", " ", "a\n", "\x1b[31mred", "a\u2028b", "a\u202eb", "a\xffb", strings.Repeat("a", 254), strings.Repeat("é", 127),
	} {
		doc, err := json.Marshal(map[string]string{"NodeName": name})
		require.NoError(t, err)
		l, err := subnet.DecodeValue(prefixes("10.5.52.0/24", ""), doc)
		require.ErrorContains(t, err, "is not a name: at most 253 bytes, printable and without spaces", "%q", name)
		require.Less(t, len(err.Error()), 300)
		require.Empty(t, l.Node)
	}
	for _, name := range []string{"n1", "ip-10-0-0-1.eu-west-1.compute.internal", strings.Repeat("a", 253)} {
		l, err := subnet.DecodeValue(prefixes("10.5.52.0/24", ""), []byte(`{"NodeName":"`+name+`"}`))
		require.NoError(t, err)
		require.Equal(t, name, l.Node)
	}
}

func TestEncodeValueRefuses(t *testing.T) {
	t.Parallel()
	for want, l := range map[string]subnet.Lease{
		`encoding the lease of "a b": lease value, NodeName: "a b" is not a name: at most 253 bytes, printable and without spaces`: {Node: "a b"},
		`encoding the lease of "n1": lease value, PublicIP: "fd00::3" is not an IPv4 address`: {
			Node: "n1", PublicIPs: subnet.PerFamily[netip.Addr]{addr("fd00::3")},
		},
		`encoding the lease of "n1": lease value, publicip: it stands there as PublicIP already`: {Node: "n1", Extra: `{"publicip":"192.168.64.4"}`},
		`encoding the lease of "n1": lease value, BackendData: invalid character 'x' looking for beginning of value`: {
			Node: "n1", BackendData: subnet.PerFamily[string]{"x"},
		},
	} {
		_, err := subnet.EncodeValue(l)
		require.EqualError(t, err, want)
	}
}

// flannelIP reads an address as flannel's reader does: without regard to what
// null means in JSON.
type flannelIP struct{ netip.Addr }

func (a *flannelIP) UnmarshalJSON(b []byte) (err error) {
	a.Addr, err = netip.ParseAddr(strings.Trim(string(b), `"`))
	return err
}

// flannelValue is what flannel reads of a lease's value.
type flannelValue struct {
	PublicIP      flannelIP
	PublicIPv6    *flannelIP
	BackendType   string
	BackendData   json.RawMessage
	BackendV6Data json.RawMessage
}

func TestFlannelReadsOurValues(t *testing.T) {
	t.Parallel()
	b, err := subnet.EncodeValue(subnet.Lease{
		Node: "n1", MachineID: "5e1f", PublicIPs: subnet.PerFamily[netip.Addr]{{}, addr("fd00::3")},
		BackendType: "vxlan", BackendData: subnet.PerFamily[string]{"", vxlanV6Data}, Extra: `{"Later":true}`,
	})
	require.NoError(t, err)
	var v flannelValue
	require.NoError(t, json.Unmarshal(b, &v))
	require.Equal(t, addr("0.0.0.0"), v.PublicIP.Addr)
	require.Equal(t, addr("fd00::3"), v.PublicIPv6.Addr)
	require.JSONEq(t, vxlanV6Data, string(v.BackendV6Data))
}

func TestDecodeRecord(t *testing.T) {
	t.Parallel()
	subnets := prefixes("10.5.52.0/24", "")
	lease, err := subnet.DecodeValue(subnets, []byte(`{"PublicIP":"192.168.64.3","BackendType":"vxlan"}`))
	require.NoError(t, err)
	require.Equal(t, subnet.Record{Key: "10.5.52.0-24", Lease: lease}, subnet.DecodeRecord("10.5.52.0-24", []byte(`{"PublicIP":"192.168.64.3","BackendType":"vxlan"}`)))

	_, wrongValue := subnet.DecodeValue(subnets, []byte(`{"PublicIP":"fd00::3","NodeName":"n1"}`))
	r := subnet.DecodeRecord("10.5.52.0-24", []byte(`{"PublicIP":"fd00::3","NodeName":"n1"}`))
	require.EqualError(t, wrongValue, r.Invalid)
	require.Equal(t, subnets, r.Lease.Subnets)
	require.Equal(t, "n1", r.Lease.Node, "what could be read")

	_, wrongKey := subnet.DecodeKey("nonsense")
	r = subnet.DecodeRecord("nonsense", []byte(`{"PublicIP":"fd00::3","NodeName":"n1"}`))
	require.EqualError(t, wrongKey, r.Invalid, "the key comes before the value")
	require.Equal(t, "n1", r.Lease.Node)
}
