package backend

import (
	"hash/maphash"
	"iter"
	"maps"
)

// Set is a set of objects for those who keep many: it finds them by a hash of
// their keys, and takes a third of the memory of a State, which holds each key
// beside its object. It is not safe for concurrent use.
type Set struct {
	hash   func(Key) uint64
	byHash map[uint64]Object
	rest   State // those of which another key has the hash
}

// NewSet returns an empty set with room for so many objects.
func NewSet(room int) *Set {
	seed := maphash.MakeSeed()
	return &Set{
		hash:   func(k Key) uint64 { return maphash.Comparable(seed, k) },
		byHash: make(map[uint64]Object, room), rest: State{},
	}
}

// Get implements Objects.
func (s *Set) Get(k Key) Object {
	if o := s.byHash[s.hash(k)]; o != nil && o.Key() == k {
		return o
	}
	if len(s.rest) == 0 {
		return nil
	}
	return s.rest[k]
}

// Put adds an object, in the place of one that has its key.
func (s *Set) Put(o Object) {
	k := o.Key()
	h := s.hash(k)
	if other := s.byHash[h]; other == nil || other.Key() == k {
		s.byHash[h] = o
		delete(s.rest, k)
	} else {
		s.rest[k] = o
	}
}

// Delete removes the object that has the key, if there is one.
func (s *Set) Delete(k Key) {
	if h := s.hash(k); s.byHash[h] != nil && s.byHash[h].Key() == k {
		delete(s.byHash, h)
	}
	delete(s.rest, k)
}

// All implements Objects.
func (s *Set) All() iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for _, objects := range []iter.Seq[Object]{maps.Values(s.byHash), maps.Values(s.rest)} {
			for o := range objects {
				if !yield(o) {
					return
				}
			}
		}
	}
}

// Len implements Objects.
func (s *Set) Len() int { return len(s.byHash) + len(s.rest) }
