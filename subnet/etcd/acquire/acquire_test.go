package acquire_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd/acquire"
)

func parse(t *testing.T, raw string) subnet.Config {
	t.Helper()
	c, err := subnet.ParseConfig([]byte(raw))
	require.NoError(t, err)
	return c
}

// record returns one under a key, as a store reads it.
func record(key, value string, created int64, reserved bool) subnet.Record {
	r := subnet.DecodeRecord(key, []byte(value))
	r.Created, r.Modified, r.Reserved = created, created, reserved
	return r
}

func keys(records []subnet.Record) []string {
	out := []string{}
	for _, r := range records {
		out = append(out, r.Key)
	}
	return out
}

type row struct {
	key, value string
	reserved   bool
}

// What the contract of stores does not reach: each row is older than the next.
func TestChoose(t *testing.T) {
	t.Parallel()
	const mine = `{"PublicIP":"192.168.0.1","BackendType":"vxlan","NodeName":"n1","MachineID":"m1"}`
	for name, tt := range map[string]struct {
		config string
		rows   []row
		key    string // "" for any new one
		delete []string
		park   []string
		unused []string
	}{
		"a record that cannot be read is ours by its name, and mended": {
			rows: []row{{"10.5.9.0-24", `{"PublicIP":"rubbish","NodeName":"n1"}`, false}},
			key:  "10.5.9.0-24",
		},
		"a key that cannot be read is given up": {
			rows:   []row{{"10.5.9.1-24", mine, false}},
			delete: []string{"10.5.9.1-24"},
		},
		"the older one keeps what overlaps": {
			rows:   []row{{"10.5.8.0-23", `{"NodeName":"other"}`, false}, {"10.5.9.0-24", mine, false}},
			delete: []string{"10.5.9.0-24"},
		},
		"the younger one does not": {
			rows: []row{{"10.5.9.0-24", mine, false}, {"10.5.8.0-23", `{"NodeName":"other"}`, false}},
			key:  "10.5.9.0-24",
		},
		"nor one that is out of the network": {
			rows: []row{{"10.0.0.0-8", `{"NodeName":"other"}`, false}, {"10.5.9.0-24", mine, false}},
			key:  "10.5.9.0-24",
		},
		"of two leases the one written last, where peers see us": {
			rows:   []row{{"10.5.9.0-24", mine, false}, {"10.5.10.0-24", mine, false}},
			key:    "10.5.10.0-24",
			delete: []string{"10.5.9.0-24"},
		},
		"a reservation that overlaps an older lease waits": {
			rows:   []row{{"10.5.9.0-24", `{"NodeName":"other"}`, false}, {"10.5.8.0-22", `{"NodeName":"n1"}`, true}, {"10.5.20.0-24", mine, false}},
			key:    "10.5.20.0-24",
			unused: []string{"the reservation 10.5.8.0-22 cannot be used: it overlaps 10.5.9.0-24 of node other, which is older"},
		},
		"a reservation of one family in a network of two": {
			config: `{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:5::/48"}`,
			rows:   []row{{"10.5.9.0-24", mine, true}},
			park:   []string{"10.5.9.0-24"},
			unused: []string{"the reservation 10.5.9.0-24 cannot be used: the network config wants IPv4 and IPv6, the lease has IPv4"},
		},
		"a larger reservation is larger": {
			rows: []row{{"10.5.8.0-22", `{"NodeName":"n1"}`, true}},
			key:  "10.5.8.0-22",
		},
		"a second reservation is left alone": {
			rows: []row{{"10.5.8.0-24", `{"NodeName":"n1"}`, true}, {"10.5.9.0-24", mine, true}},
			key:  "10.5.9.0-24",
		},
		"a reservation for another name is another's, at our address too": {
			rows: []row{{"10.5.9.0-24", `{"PublicIP":"192.168.0.1","NodeName":"n2","MachineID":"m1"}`, true}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.config == "" {
				tt.config = `{"Network": "10.5.0.0/16"}`
			}
			var records []subnet.Record
			for i, r := range tt.rows {
				records = append(records, record(r.key, r.value, int64(i+1), r.reserved))
			}
			c := subnet.Claim{
				Node: "n1", MachineID: "m1", Config: parse(t, tt.config), BackendType: subnet.BackendVXLAN,
				PublicIPs: subnet.PerFamily[netip.Addr]{netip.MustParseAddr("192.168.0.1")},
			}
			got, err := acquire.Choose(c, records)
			require.NoError(t, err)
			if tt.key == "" {
				require.False(t, got.Taken)
				require.NotContains(t, keys(records), got.Key)
				require.NoError(t, acquire.Fits(c.Config, subnet.Record{Lease: got.Lease}))
			} else {
				require.Equal(t, tt.key, got.Key)
				require.True(t, got.Taken)
			}
			require.ElementsMatch(t, tt.delete, keys(got.Delete))
			require.ElementsMatch(t, tt.park, keys(got.Park))
			var unused []string
			for _, err := range got.Unused {
				unused = append(unused, err.Error())
			}
			require.ElementsMatch(t, tt.unused, unused)
			require.Equal(t, c.Announcement(got.Lease.Subnets), got.Lease)
		})
	}
}

// A family that is switched on leaves the other's subnet, even a reserved one.
func TestPreviousSubnetsAreKept(t *testing.T) {
	t.Parallel()
	c := subnet.Claim{
		Node: "n1", BackendType: subnet.BackendVXLAN,
		Config: parse(t, `{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:5::/48"}`),
	}
	got, err := acquire.Choose(c, []subnet.Record{record("10.5.9.0-24", `{"NodeName":"n1"}`, 1, true)})
	require.NoError(t, err)
	require.Equal(t, netip.MustParsePrefix("10.5.9.0/24"), got.Lease.Subnets[subnet.IPv4])
	require.True(t, got.Lease.Subnets[subnet.IPv6].IsValid())
}

// Nor does it matter what others had in former times, before we got what we use.
func TestRecordsFromBeforeOurTimeAreUndone(t *testing.T) {
	t.Parallel()
	of := func(key string, written int64, reserved bool) subnet.Record {
		return record(key, `{"NodeName":"n2"}`, written, reserved)
	}
	for name, tt := range map[string]struct {
		others      []subnet.Record
		key, undone string
		delete      []string
	}{
		"under our key":    {[]subnet.Record{of("10.5.7.0-24", 4, false)}, "10.5.7.0-24", "10.5.7.0-24", nil},
		"it holds ours":    {[]subnet.Record{of("10.5.6.0-23", 4, false)}, "10.5.7.0-24", "", []string{"10.5.6.0-23"}},
		"elsewhere":        {[]subnet.Record{of("10.5.8.0-24", 4, false)}, "10.5.7.0-24", "", nil},
		"since, so theirs": {[]subnet.Record{of("10.5.7.0-24", 5, false)}, "10.5.9.0-24", "", nil},
		"a reservation":    {[]subnet.Record{of("10.5.7.0-24", 4, true)}, "10.5.9.0-24", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := subnet.Claim{
				Node: "n1", BackendType: subnet.BackendVXLAN, Config: parse(t, `{"Network": "10.5.0.0/16", "SubnetMin": "10.5.7.0", "SubnetMax": "10.5.9.0"}`),
				Previous: subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.5.7.0/24")}, InUse: true, Since: 5,
			}
			ours := record("10.5.9.0-24", `{"NodeName":"n1"}`, 1, false)
			got, err := acquire.Choose(c, append(tt.others, ours))
			require.NoError(t, err)
			require.Equal(t, tt.key, got.Key)
			require.Equal(t, tt.undone, got.Undone.Key)
			if tt.key != ours.Key {
				tt.delete = append(tt.delete, ours.Key)
			}
			require.ElementsMatch(t, tt.delete, keys(got.Delete))
		})
	}
}

// A store that was restored from a backup has a record of ours of former times.
func TestSubnetsInUseAreKept(t *testing.T) {
	t.Parallel()
	older := record("10.5.9.0-24", `{"NodeName":"n1"}`, 1, false)
	for name, tt := range map[string]struct {
		inUse  bool
		others []subnet.Record
		key    string
		delete []string
	}{
		"in use":               {true, nil, "10.5.7.0-24", []string{"10.5.9.0-24"}},
		"from an earlier run":  {false, nil, "10.5.9.0-24", nil},
		"another's by now":     {true, []subnet.Record{record("10.5.7.0-24", `{"NodeName":"n2"}`, 1, false)}, "10.5.9.0-24", nil},
		"a reservation beside": {true, []subnet.Record{record("10.5.8.0-24", `{"NodeName":"n1"}`, 1, true)}, "10.5.8.0-24", []string{"10.5.9.0-24"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := subnet.Claim{
				Node: "n1", BackendType: subnet.BackendVXLAN, Config: parse(t, `{"Network": "10.5.0.0/16"}`),
				Previous: subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.5.7.0/24")}, InUse: tt.inUse,
			}
			got, err := acquire.Choose(c, append(tt.others, older))
			require.NoError(t, err)
			require.Equal(t, tt.key, got.Key)
			require.ElementsMatch(t, tt.delete, keys(got.Delete))
		})
	}
}

func TestDuplicate(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		machine, ip string
		duplicate   bool
	}{
		"the same":            {"m1", "192.168.0.1", false},
		"another address":     {"m1", "192.168.0.2", false},
		"another machine ID":  {"m2", "192.168.0.1", false},
		"another machine":     {"m2", "192.168.0.2", true},
		"unknown, elsewhere":  {"", "192.168.0.2", false},
		"a reservation's way": {"", "", false},
	} {
		l := subnet.Lease{Node: "n1", MachineID: tt.machine, Subnets: subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.5.9.0/24")}}
		if tt.ip != "" {
			l.PublicIPs[subnet.IPv4] = netip.MustParseAddr(tt.ip)
		}
		c := subnet.Claim{Node: "n1", MachineID: "m1", Config: parse(t, `{"Network": "10.5.0.0/16"}`), PublicIPs: subnet.PerFamily[netip.Addr]{netip.MustParseAddr("192.168.0.1")}}
		_, err := acquire.Choose(c, []subnet.Record{{Key: "10.5.9.0-24", Lease: l}})
		if tt.duplicate {
			var duplicate *acquire.DuplicateError
			require.ErrorAs(t, err, &duplicate, name)
		} else {
			require.NoError(t, err, name)
		}
	}
}
