package mqtt

import (
	"bytes"
	"fmt"
	"maps"
	"strings"

	"github.com/weir-io/weir/mqtt/deliver"
)

// partitionFor is the partition of the sessions table in which everything about a client identifier stands.
func (s *Server) partitionFor(id string) int { return PartitionFor(viewBytes(id), s.holdings.n) }

// putSession changes one of the records of a client identifier.
func (s *Server) putSession(id string, key, value []byte, done func(error)) {
	s.cfg.Sessions.Put(s.homeOf(id).ownership(), key, value, done)
}

// stored is what a partition of the sessions table holds.
type stored struct {
	sessions map[string][]byte // by key: those of clients
	floor    []byte            // nil: none
}

// load reads a partition. The table gives what was ever put and is not compacted yet: only the newest value of a key
// counts, and nil means that there is none any more.
func (s *Server) load(partition int) (st stored, err error) {
	st.sessions = map[string][]byte{}
	groups := map[string][]byte{}
	var floorOfAll []byte
	err = s.cfg.Sessions.Load(partition, func(key, value []byte) error {
		switch {
		case string(key) == keyFloor:
			st.floor = bytes.Clone(value)
		case string(key) == keyFloorOfAll:
			floorOfAll = bytes.Clone(value)
		case bytes.HasPrefix(key, []byte(deliver.GroupKeyPrefix)):
			groups[string(key)] = bytes.Clone(value)
		case len(key) == 0 || key[0] == 0: // of some later build
		case value == nil:
			delete(st.sessions, string(key))
		default:
			st.sessions[string(key)] = append(st.sessions[string(key)][:0], value...)
		}
		return nil
	})
	if err != nil {
		return st, err
	}
	maps.DeleteFunc(groups, func(_ string, value []byte) bool { return value == nil })
	for key, value := range groups {
		s.hub.StoredGroup(key, value)
		if PartitionFor([]byte(key), s.holdings.n) != partition {
			s.stray(partition, key)
		}
	}
	if partition == s.holdings.first {
		s.holdings.floorOfAll(floorOfAll)
	}
	if st.floor == nil {
		st.floor, err = s.floorOfAll()
	}
	return st, err
}

// floorOfAll is the floor that earlier builds kept for all partitions together, nil if there is none. It holds for
// sessions of a partition until that has a floor of its own: nobody writes it any more.
func (s *Server) floorOfAll() (value []byte, err error) {
	if value, known := s.holdings.floorOfAllKnown(); known {
		return value, nil
	}
	err = s.cfg.Sessions.Load(s.holdings.first, func(key, v []byte) error {
		if string(key) == keyFloorOfAll {
			value = bytes.Clone(v)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("floor of all partitions: %w", err)
	}
	s.holdings.floorOfAll(value)
	return value, nil
}

// groupTable keeps the shared subscriptions that this node leads, each in the partition for which it does.
type groupTable struct{ s *Server }

// Load finds nothing: the cursors come with the sessions, see load.
func (t groupTable) Load(func(key, value []byte) error) error { return nil }

func (t groupTable) Put(key, value []byte, done func(error)) {
	hm := &t.s.holdings.homes[PartitionFor(key, t.s.holdings.n)]
	t.s.cfg.Sessions.Put(hm.ownership(), key, value, func(err error) {
		if err == nil {
			t.s.dropStrays(string(key))
		}
		done(err)
	})
}

// stray notes a shared subscription that an earlier build stored in a partition that is not its own.
func (s *Server) stray(partition int, key string) {
	h := &s.holdings
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.strays == nil {
		h.strays = map[string][]int{}
	}
	h.strays[key] = append(h.strays[key], partition)
}

// dropStrays forgets those of a shared subscription that is stored where it belongs: when it has ended, none of them may
// come back.
func (s *Server) dropStrays(key string) {
	h := &s.holdings
	h.mu.Lock()
	parts := h.strays[key]
	delete(h.strays, key)
	h.mu.Unlock()
	for _, p := range parts {
		if hm := &h.homes[p]; hm.owned() {
			s.cfg.Sessions.Put(hm.ownership(), []byte(key), nil, func(error) {})
		}
	}
}

// splitKey tells the client identifier and the kind of a record.
func splitKey(key string) (id, kind string) {
	id, kind, _ = strings.Cut(key, "\x00")
	return id, kind
}
