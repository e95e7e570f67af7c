// Package lastgood keeps what a node last knew of the network on disk, so that
// it can bring its pods' network up while the store is down: the network
// config, its own lease and everybody's records.
//
// The file is text, one JSON object a line: first what the node itself has,
// then each record with its subnets and flannel's value, last how many there were, by
// which a file that was cut off is known.
//
// It imports neither a store, netlink nor a logger.
package lastgood

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/twill-net/twill/subnet"
)

// FileName is the file's name in the state directory.
const FileName = "last-good.json"

// State is what a node knew.
type State struct {
	Saved    time.Time
	Node     string
	Store    string // which one: where it is, and where in it
	Position string // how far its history had come, in the store's own words; "": not known
	Config   []byte // the network config as it was in the store
	Own      subnet.Held
	Records  []subnet.Record // all that could be read, our own among them
}

const version = 1

// head is the first line.
type head struct {
	Version  int             `json:"version"`
	Saved    time.Time       `json:"saved"`
	Node     string          `json:"node"`
	Store    string          `json:"store"`
	Position string          `json:"position,omitempty"`
	Config   json.RawMessage `json:"config"`
	Own      json.RawMessage `json:"own"` // a line
	Expires  time.Time       `json:"expires,omitzero"`
}

// line is a record.
type line struct {
	Key      string          `json:"key"`
	Subnets  string          `json:"subnets"` // in the form of flannel's key
	Value    json.RawMessage `json:"value"`
	Created  int64           `json:"created"`
	Modified int64           `json:"modified"`
	Reserved bool            `json:"reserved,omitempty"`
}

// tail is the last line.
type tail struct {
	Records *int `json:"records"`
}

// Write replaces the file by s with these records, whatever s.Records holds, so
// that there need not be a list of them. Readers see the old file or the new
// one, never a part. Records that cannot be used are left out.
func Write(path string, s State, records iter.Seq[subnet.Record]) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing the last good state to %s: %w", path, err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := errors.Join(fill(f, s, records), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func fill(f *os.File, s State, records iter.Seq[subnet.Record]) error {
	w := bufio.NewWriterSize(f, 1<<16)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // values stay as they are
	own, err := appendLine(nil, subnet.Record{Key: s.Own.Key, Lease: s.Own.Lease, Created: s.Own.Created})
	if err != nil {
		return err
	}
	if err := enc.Encode(head{Version: version, Saved: s.Saved, Node: s.Node, Store: s.Store, Position: s.Position, Config: s.Config, Own: own, Expires: s.Own.Expires}); err != nil {
		return err
	}
	n := 0
	var l []byte
	for r := range records {
		if r.Invalid != "" {
			continue
		}
		if l, err = appendLine(l[:0], r); err != nil {
			continue
		}
		if _, err := w.Write(append(l, '\n')); err != nil {
			return err
		}
		n++
	}
	if err := errors.Join(enc.Encode(tail{&n}), w.Flush()); err != nil {
		return err
	}
	return f.Sync() // or some file systems bring back an empty file after a power loss
}

// appendLine appends the record as line is read. It does so itself: of 20 000
// records encoding/json takes 0.2 s and as much garbage as they are large.
func appendLine(b []byte, r subnet.Record) ([]byte, error) {
	var err error
	subnets := subnet.EncodeKey(r.Lease.Subnets)
	quoted := []byte(`"` + subnets + `"`)
	b = append(b, `{"key":`...)
	if r.Key == subnets {
		b = append(b, quoted...)
	} else {
		key, err := json.Marshal(r.Key)
		if err != nil {
			return nil, err
		}
		b = append(b, key...)
	}
	b = append(append(append(b, `,"subnets":`...), quoted...), `,"value":`...)
	if b, err = subnet.AppendValue(b, r.Lease); err != nil {
		return nil, err
	}
	b = strconv.AppendInt(append(b, `,"created":`...), r.Created, 10)
	b = strconv.AppendInt(append(b, `,"modified":`...), r.Modified, 10)
	if r.Reserved {
		b = append(b, `,"reserved":true`...)
	}
	return append(b, '}'), nil
}

// Read reads the file. One that is not whole is an error, as is one of another
// version; fs.ErrNotExist is in the chain when there is none.
func Read(path string) (State, error) { return open(path, read) }

// ReadHead is Read without the records, nor a look at whether they are whole:
// it costs the same however many there are.
func ReadHead(path string) (State, error) {
	return open(path, func(r io.Reader) (State, error) { return readHead(json.NewDecoder(r)) })
}

func open(path string, read func(io.Reader) (State, error)) (State, error) {
	f, err := os.Open(path)
	if err != nil {
		return State{}, fmt.Errorf("reading the last good state: %w", err)
	}
	defer f.Close()
	s, err := read(f)
	if err != nil {
		return State{}, fmt.Errorf("reading the last good state from %s: %w", path, err)
	}
	return s, nil
}

func readHead(dec *json.Decoder) (State, error) {
	var h head
	if err := dec.Decode(&h); err != nil {
		return State{}, err
	}
	if h.Version != version {
		return State{}, fmt.Errorf("it has version %d, want %d", h.Version, version)
	}
	var l line
	if err := json.Unmarshal(h.Own, &l); err != nil {
		return State{}, fmt.Errorf("our own lease: %w", err)
	}
	own, err := l.record()
	if err != nil {
		return State{}, fmt.Errorf("our own lease: %w", err)
	}
	return State{Saved: h.Saved, Node: h.Node, Store: h.Store, Position: h.Position, Config: h.Config,
		Own: subnet.Held{Lease: own.Lease, Key: own.Key, Created: own.Created, Expires: h.Expires}}, nil
}

func read(r io.Reader) (State, error) {
	dec := json.NewDecoder(bufio.NewReader(r))
	s, err := readHead(dec)
	if err != nil {
		return State{}, err
	}
	for {
		var l struct {
			line
			tail
		}
		if err := dec.Decode(&l); err != nil {
			return State{}, fmt.Errorf("it ends after %d records, without its last line: %w", len(s.Records), err)
		}
		if l.Records != nil {
			if *l.Records != len(s.Records) {
				return State{}, fmt.Errorf("it has %d records and should have %d", len(s.Records), *l.Records)
			}
			return s, nil
		}
		record, err := l.record()
		if err != nil {
			return State{}, fmt.Errorf("record %s: %w", l.Key, err)
		}
		s.Records = append(s.Records, record)
	}
}

func (l line) record() (subnet.Record, error) {
	subnets, err := subnet.DecodeKey(l.Subnets)
	if err != nil {
		return subnet.Record{}, err
	}
	lease, err := subnet.DecodeValue(subnets, l.Value)
	return subnet.Record{Key: l.Key, Lease: lease, Created: l.Created, Modified: l.Modified, Reserved: l.Reserved}, err
}
