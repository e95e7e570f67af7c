package vxlan

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/twill-net/twill/subnet"
)

// Data is what a lease's BackendData says of a VTEP, in flannel's words.
type Data struct {
	VNI     uint32
	VtepMAC subnet.MAC
}

// Encode returns the JSON form: {"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}.
func (d Data) Encode() string {
	return fmt.Sprintf(`{"VNI":%d,"VtepMAC":%q}`, d.VNI, d.VtepMAC)
}

// DecodeData reads BackendData. Members that it does not know are passed over.
func DecodeData(s string) (Data, error) {
	var raw struct {
		VNI     *uint32
		VtepMAC *string
	}
	if err := json.Unmarshal([]byte(s), &raw); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) && kind.Field != "" {
			return Data{}, fmt.Errorf("its BackendData has a %s as %s", kind.Value, kind.Field)
		}
		return Data{}, fmt.Errorf("its BackendData is not an object with VNI and VtepMAC")
	}
	if raw.VNI == nil || raw.VtepMAC == nil {
		return Data{}, fmt.Errorf("its BackendData lacks VNI or VtepMAC")
	}
	mac, err := subnet.ParseMAC(*raw.VtepMAC)
	if err != nil {
		return Data{}, fmt.Errorf("its VtepMAC %.32q is not a MAC address", *raw.VtepMAC)
	}
	if !mac.IsUnicast() {
		return Data{}, fmt.Errorf("its VtepMAC %s is not a unicast address", mac)
	}
	return Data{VNI: *raw.VNI, VtepMAC: mac}, nil
}
