package vxlan

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

// Whatever the short way takes, encoding/json takes, and finds the same.
func FuzzDecodeUsual(f *testing.F) {
	for _, s := range []string{
		Data{VNI: 1, VtepMAC: subnet.MAC{0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}}.Encode(),
		`{"VNI":0,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, `{"VNI":01,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, `{"VNI":+1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`,
		`{"VNI":,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, `{"VNI":4294967296,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, `{"VNI":1,"VtepMAC":"aabb.ccdd.eeff"}`,
		`{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff","VNI":2,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, `{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}`,
		`{"VNI":1,"VtepMAC":""}`, `{"VNI":1,"VtepMAC":"`, `{"VNI":`, `{"VNI":1`, ``,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := decodeUsual(s)
		if !ok {
			return
		}
		var slow struct {
			VNI     *uint32
			VtepMAC *string
		}
		require.NoError(t, json.Unmarshal([]byte(s), &slow))
		mac, err := subnet.ParseMAC(*slow.VtepMAC)
		require.NoError(t, err)
		require.Equal(t, Data{VNI: *slow.VNI, VtepMAC: mac}, d)
		require.True(t, d.VtepMAC.IsUnicast())
	})
}

func TestDecodeUsual(t *testing.T) {
	t.Parallel()
	want := Data{VNI: 7, VtepMAC: subnet.MAC{0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}}
	have, ok := decodeUsual(want.Encode())
	require.True(t, ok)
	require.Equal(t, want, have)
}
