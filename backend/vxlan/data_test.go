package vxlan_test

import (
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/vxlan"
	"github.com/twill-net/twill/subnet"
)

func TestDecodeData(t *testing.T) {
	t.Parallel()
	mac := subnet.MAC{0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}
	for _, tt := range []struct {
		in   string
		want vxlan.Data
		err  string
	}{
		{`{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, vxlan.Data{VNI: 1, VtepMAC: mac}, ""},
		{`{"VtepMAC":"AA-BB-CC-DD-EE-FF","VNI":16777215}`, vxlan.Data{VNI: 16777215, VtepMAC: mac}, ""},
		{`{"vni":1,"vtepmac":"aabb.ccdd.eeff","Gateway":[1,{}]}`, vxlan.Data{VNI: 1, VtepMAC: mac}, ""},

		{``, vxlan.Data{}, `not an object like {"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`},
		{`{`, vxlan.Data{}, `not an object like {"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`},
		{`{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"} {}`, vxlan.Data{}, `not an object like {"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`},
		{`"aa:bb:cc:dd:ee:ff"`, vxlan.Data{}, `not an object like {"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`},
		{`[]`, vxlan.Data{}, `not an object like {"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`},
		{`null`, vxlan.Data{}, "VNI is missing"},
		{`{}`, vxlan.Data{}, "VNI is missing"},
		{`{"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, vxlan.Data{}, "VNI is missing"},
		{`{"VNI":null,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, vxlan.Data{}, "VNI is missing"},
		{`{"VNI":1}`, vxlan.Data{}, "VtepMAC is missing"},
		{`{"VNI":"1","VtepMAC":"aa:bb:cc:dd:ee:ff"}`, vxlan.Data{}, "VNI has the wrong type or range: string"},
		{`{"VNI":-1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, vxlan.Data{}, "VNI has the wrong type or range: number -1"},
		{`{"VNI":1.5,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, vxlan.Data{}, "VNI has the wrong type or range: number 1.5"},
		{
			`{"VNI":` + strings.Repeat("9", 1000) + `,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, vxlan.Data{},
			"VNI has the wrong type or range: number " + strings.Repeat("9", 25),
		},
		{`{"VNI":1,"VtepMAC":[170,187]}`, vxlan.Data{}, "VtepMAC has the wrong type or range: array"},
		{`{"VNI":1,"VtepMAC":""}`, vxlan.Data{}, `VtepMAC "" is not a MAC address`},
		{`{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee"}`, vxlan.Data{}, `VtepMAC "aa:bb:cc:dd:ee" is not a MAC address`},
		{`{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff:00:11"}`, vxlan.Data{}, `VtepMAC "aa:bb:cc:dd:ee:ff:00:11" is not a MAC address`},
		{`{"VNI":1,"VtepMAC":"\u001b[31m` + strings.Repeat("x", 1000) + `"}`, vxlan.Data{}, `VtepMAC "\x1b[31m` + strings.Repeat("x", 27) + `" is not a MAC address`},
		{`{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}`, vxlan.Data{}, "VtepMAC 00:00:00:00:00:00 is not a unicast address"},
		{`{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}`, vxlan.Data{}, "VtepMAC 01:00:5e:00:00:01 is not a unicast address"},
		{`{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}`, vxlan.Data{}, "VtepMAC ff:ff:ff:ff:ff:ff is not a unicast address"},
	} {
		got, err := vxlan.DecodeData(tt.in)
		require.Equal(t, tt.want, got, "%.80s", tt.in)
		if tt.err == "" {
			require.NoError(t, err, "%.80s", tt.in)
		} else {
			require.EqualError(t, err, tt.err, "%.80s", tt.in)
		}
	}
}

func TestEncodeData(t *testing.T) {
	t.Parallel()
	d := vxlan.Data{VNI: 1, VtepMAC: subnet.MAC{0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}}
	require.Equal(t, `{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, d.Encode())
}

func FuzzDecodeData(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		d, err := vxlan.DecodeData(s)
		if err != nil {
			require.Zero(t, d)
			require.LessOrEqual(t, len(err.Error()), 200)
			require.NotContains(t, err.Error(), "\n")
			for _, r := range err.Error() {
				require.True(t, unicode.IsPrint(r), "%q", err)
			}
			return
		}
		require.True(t, d.VtepMAC.IsUnicast())
		again, err := vxlan.DecodeData(d.Encode())
		require.NoError(t, err)
		require.Equal(t, d, again)
	})
}
