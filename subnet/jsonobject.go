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
	"unicode"
	"unicode/utf8"

	"github.com/twill-net/twill/subnet/nearest"
)

// member is one member of a JSON object, as it stands in the document.
type member struct {
	name string
	raw  json.RawMessage
}

// members reads one JSON object and nothing after it. It returns the members
// in the order of the document, one given twice twice; with an error those
// before it.
func members(b []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil {
		return nil, jsonReason(err)
	} else if t != json.Delim('{') {
		return nil, errors.New("it is not an object")
	}
	var list []member
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return list, jsonReason(err)
		}
		m := member{name: t.(string)} // of an object's keys the decoder returns nothing else
		if err := dec.Decode(&m.raw); err != nil {
			return list, jsonReason(err)
		}
		list = append(list, m)
	}
	if _, err := dec.Token(); err != nil {
		return list, jsonReason(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return list, errors.New("something follows the object")
	}
	return list, nil
}

func jsonReason(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends too early")
	}
	const most = 128
	if text := err.Error(); len(text) > most { // it repeats a number as it stands, however long
		return errors.New(clip(text))
	}
	return err
}

// object is a JSON object of the network config. Its readers return the
// default once one of them has failed: err keeps the first failure.
type object struct {
	path    string // "" or "Backend."
	members []member
	err     error
}

func parseObject(path string, b []byte) *object {
	list, err := members(b)
	if err != nil {
		err = fmt.Errorf("%w; it must be one JSON object such as {\"Network\": \"%s\"}", err, exampleNetworks[IPv4])
	}
	return &object{path: path, members: list, err: err}
}

// fail notes that a member cannot be used. value is as in the document.
func (o *object) fail(key, value, want string) {
	if o.err == nil {
		o.err = &ConfigError{Key: o.path + key, Value: value, Want: want}
	}
}

// only refuses members other than keys, and one given twice. Names match
// without regard to case, as in encoding/json.
func (o *object) only(keys ...string) {
	for i, m := range o.members {
		known := slices.ContainsFunc(keys, func(key string) bool { return strings.EqualFold(m.name, key) })
		if !known && o.err == nil {
			// Without the value: flannel's PSK is a secret.
			o.err = &ConfigError{Key: o.path + clip(m.name), Keys: strings.Join(keys, ", "), Meant: nearest.Name(m.name, keys)}
		}
		for _, first := range o.members[:i] {
			if o.err == nil && strings.EqualFold(m.name, first.name) {
				o.fail(m.name, clip(m.raw), "given once: it stands there as "+first.name+" already")
			}
		}
		if o.err != nil {
			return
		}
	}
}

// get returns a member's value; null counts as absent.
func (o *object) get(key string) (json.RawMessage, bool) {
	for _, m := range o.members {
		if o.err == nil && strings.EqualFold(m.name, key) {
			return m.raw, string(m.raw) != "null"
		}
	}
	return nil, false
}

func (o *object) boolean(key string, def bool) bool {
	raw, ok := o.get(key)
	if !ok {
		return def
	}
	var v bool
	if json.Unmarshal(raw, &v) != nil {
		o.fail(key, clip(raw), "true or false")
	}
	return v
}

// choice is boolean for the members whose absence means something of its own.
func (o *object) choice(key string) Choice {
	if _, ok := o.get(key); !ok {
		return Unset
	}
	if o.boolean(key, false) {
		return Yes
	}
	return No
}

func (o *object) integer(key string, def, lo, hi int) int {
	raw, ok := o.get(key)
	if !ok {
		return def
	}
	v, err := strconv.Atoi(string(raw))
	if err != nil || v < lo || v > hi {
		o.fail(key, clip(raw), fmt.Sprintf("a whole number from %d to %d", lo, hi))
		return def
	}
	return v
}

// integerOr0 is integer for the members where 0 asks for the default, as it
// does with flannel.
func (o *object) integerOr0(key string, def, lo, hi int) int {
	if raw, ok := o.get(key); ok && string(raw) == "0" {
		return def
	}
	return o.integer(key, def, lo, hi)
}

func (o *object) text(key string) (string, bool) {
	raw, ok := o.get(key)
	if !ok {
		return "", false
	}
	var v string
	if json.Unmarshal(raw, &v) != nil {
		o.fail(key, clip(raw), "a string")
		return "", false
	}
	return v, true
}

// quote shows a string of a document in an error.
func quote(s string) string { return strconv.Quote(clip(s)) }

// clip keeps what a hostile document holds from filling a log or steering a
// terminal: it returns one line of at most 64 bytes, and an ellipsis for more.
func clip[T string | json.RawMessage](s T) string {
	const most = 64
	var b strings.Builder
	for _, r := range string(s) {
		switch {
		case unicode.IsSpace(r):
			r = ' '
		case !unicode.IsPrint(r):
			r = unicode.ReplacementChar
		}
		if b.Len()+utf8.RuneLen(r) > most {
			return b.String() + "…"
		}
		b.WriteRune(r)
	}
	return b.String()
}
