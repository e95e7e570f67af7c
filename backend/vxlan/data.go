package vxlan

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/twill-net/twill/subnet"
)

// Data is what a lease's BackendData says of a VTEP, in flannel's words.
type Data struct {
	VNI     uint32
	VtepMAC subnet.MAC
}

// members names where a lease keeps the Data of each tunnel family.
var members = subnet.PerFamily[string]{"BackendData", "BackendV6Data"}

// Encode returns the JSON form: {"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}.
func (d Data) Encode() string {
	return fmt.Sprintf(`{"VNI":%d,"VtepMAC":%q}`, d.VNI, d.VtepMAC)
}

// DecodeData reads a VTEP's JSON form. Members that it does not know are
// passed over. Errors are short and printable, whatever s holds.
func DecodeData(s string) (Data, error) {
	if d, ok := decodeUsual(s); ok {
		return d, nil
	}
	var raw struct {
		VNI     *uint32
		VtepMAC *string
	}
	if err := json.Unmarshal([]byte(s), &raw); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) && kind.Field != "" {
			return Data{}, fmt.Errorf("%s has the wrong type or range: %.32s", kind.Field, kind.Value)
		}
		return Data{}, errors.New(`not an object like {"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`)
	}
	switch {
	case raw.VNI == nil:
		return Data{}, errors.New("VNI is missing")
	case raw.VtepMAC == nil:
		return Data{}, errors.New("VtepMAC is missing")
	}
	mac, err := subnet.ParseMAC(*raw.VtepMAC)
	if err != nil {
		return Data{}, fmt.Errorf("VtepMAC %.32q is not a MAC address", *raw.VtepMAC)
	}
	if !mac.IsUnicast() {
		return Data{}, fmt.Errorf("VtepMAC %s is not a unicast address", mac)
	}
	return Data{VNI: *raw.VNI, VtepMAC: mac}, nil
}

// decodeUsual reads what Encode writes, and flannel too, byte for byte: it is
// read twice for each of many peers, and takes encoding/json ten times as long.
// Anything else is left to it.
func decodeUsual(s string) (d Data, ok bool) {
	rest, ok := strings.CutPrefix(s, `{"VNI":`)
	if !ok {
		return d, false
	}
	vni, rest, ok := strings.Cut(rest, `,"VtepMAC":"`)
	if !ok || vni != "0" && strings.HasPrefix(vni, "0") {
		return d, false
	}
	mac, ok := strings.CutSuffix(rest, `"}`)
	if !ok {
		return d, false
	}
	n, err := strconv.ParseUint(vni, 10, 32)
	if err != nil {
		return d, false
	}
	d = Data{VNI: uint32(n)}
	d.VtepMAC, err = subnet.ParseMAC(mac)
	return d, err == nil && d.VtepMAC.IsUnicast()
}
