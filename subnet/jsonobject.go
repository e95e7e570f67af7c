package subnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// object is a JSON object whose members are taken out one by one; what is left
// is unknown.
type object struct {
	path    string // "" or "Backend."
	members map[string]json.RawMessage
	names   map[string]string // lower case to as written
	known   []string
}

func parseObject(path string, b []byte) (*object, error) {
	name := strings.TrimSuffix(path, ".")
	bad := func(why string) error {
		if name == "" {
			return fmt.Errorf("network config: %s; it must be one JSON object such as {\"Network\": \"10.244.0.0/16\"}", why)
		}
		return &ConfigError{name, clip(b), "an object such as {\"Type\": \"vxlan\"}"}
	}
	o := &object{path: path, members: map[string]json.RawMessage{}, names: map[string]string{}}
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		if err == nil {
			err = errors.New("it is not an object")
		}
		return nil, bad(jsonReason(err))
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, bad(jsonReason(err))
		}
		key, _ := t.(string)
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, bad(jsonReason(err))
		}
		low := strings.ToLower(key)
		if first, twice := o.names[low]; twice {
			return nil, &ConfigError{path + key, clip(raw), "given once; it stands there as " + first + " already"}
		}
		o.names[low], o.members[low] = key, raw
	}
	if _, err := dec.Token(); err != nil {
		return nil, bad(jsonReason(err))
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, bad("something follows the object")
	}
	return o, nil
}

func jsonReason(err error) string {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "the document ends too early"
	}
	return err.Error()
}

// take removes a member; a JSON null counts as absent.
func (o *object) take(key string) (json.RawMessage, bool) {
	o.known = append(o.known, key)
	low := strings.ToLower(key)
	raw, ok := o.members[low]
	delete(o.members, low)
	return raw, ok && string(raw) != "null"
}

func (o *object) unknown() error {
	if len(o.members) == 0 {
		return nil
	}
	var left []string
	for low := range o.members {
		left = append(left, o.names[low])
	}
	slices.Sort(left)
	return &ConfigError{o.path + left[0], clip(o.members[strings.ToLower(left[0])]),
		"left out: the keys here are " + strings.Join(o.known, ", ")}
}

func (o *object) boolean(key string, def bool) (bool, error) {
	raw, ok := o.take(key)
	if !ok {
		return def, nil
	}
	var v bool
	if err := json.Unmarshal(raw, &v); err != nil {
		return def, &ConfigError{o.path + key, clip(raw), "true or false"}
	}
	return v, nil
}

func (o *object) integer(key string, def, lo, hi int) (int, error) {
	raw, ok := o.take(key)
	if !ok {
		return def, nil
	}
	v, err := strconv.Atoi(string(raw))
	if err != nil || v < lo || v > hi {
		return def, &ConfigError{o.path + key, clip(raw), fmt.Sprintf("a whole number from %d to %d", lo, hi)}
	}
	return v, nil
}

func (o *object) text(key string) (string, bool, error) {
	raw, ok := o.take(key)
	if !ok {
		return "", false, nil
	}
	var v string
	if err := json.Unmarshal(raw, &v); err != nil {
		return "", false, &ConfigError{o.path + key, clip(raw), "a string"}
	}
	return v, true, nil
}
