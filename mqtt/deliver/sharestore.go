package deliver

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/log"
)

// This file is what is stored of shared subscriptions, and what a restart or the next leader makes of it.

// GroupKeyPrefix begins the keys of groups in the sessions table. No client id can begin so:
// MQTT strings hold no NUL.
const GroupKeyPrefix = "\x00share/"

// groupRecord is the stored form. Earlier builds stored the cursor alone.
type groupRecord struct {
	_       struct{} `cbor:",toarray"`
	Format  int      // groupFormat
	Cursor  Cursor
	Members []storedMember // those of QoS 2, in a cluster
	old     bool           // it was stored by an earlier build
}

type storedMember struct {
	_     struct{} `cbor:",toarray"`
	ID    string
	Stays bool // its session outlives its connection
}

const groupFormat = 1

func (r *groupRecord) encode() []byte {
	b, err := cbor.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("BUG: encode shared subscription: %v", err))
	}
	return b
}

func decodeGroup(value []byte) (r groupRecord, err error) {
	if len(value) > 0 && value[0]>>5 != 4 { // not an array
		r.Format, r.old = groupFormat, true
		err = r.Cursor.UnmarshalCBOR(value)
		return r, err
	}
	if err = cbor.Unmarshal(value, &r); err == nil && r.Format != groupFormat {
		err = fmt.Errorf("format %d, this version reads %d", r.Format, groupFormat)
	}
	return r, err
}

// cursor is the group's place, behind everything unacked.
func (g *Group) cursor() Cursor {
	s := g.session()
	s.catchUp.Lock()
	cur := g.h.placeOf(s)
	s.catchUp.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	for d := range g.out {
		cur.lowerKnown(d)
	}
	for _, d := range g.redo {
		cur.lowerKnown(d)
	}
	return cur
}

// lowerKnown is Lower for partitions that still exist.
func (c *Cursor) lowerKnown(d delivery) {
	if next, ok := c.Next(d.id); ok && d.offset < next {
		c.Set(d.id, d.offset)
	}
}

// loadGroups reads the cursors of the last run. One whose members never come back costs a small entry.
func (h *Hub) loadGroups() error {
	h.stored = map[string]groupRecord{}
	if h.cfg.Groups == nil {
		return nil
	}
	return h.cfg.Groups.Load(func(key, value []byte) error {
		h.StoredGroup(string(key), value)
		return nil
	})
}

// StoredGroup takes up a record of the table of groups: the cursor of one whose members are not back yet, nil to forget
// it. Of several the farthest counts in each partition: somebody has acked what lies before it. Keys that are not a group's
// are passed over.
func (h *Hub) StoredGroup(key string, value []byte) {
	name, ok := strings.CutPrefix(key, GroupKeyPrefix)
	if !ok {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if value == nil {
		delete(h.stored, name)
	}
	if g := h.groups[name]; value == nil || g != nil && g.leads() {
		return
	}
	r, err := decodeGroup(value)
	if err != nil {
		h.cfg.Logger.Warn("stored cursor of a shared subscription left out", "group", name, "err", err)
		return
	}
	old := h.stored[name]
	r.Cursor.Raise(old.Cursor)
	r.Members = append(r.Members, old.Members...)
	r.old = r.old || old.old
	h.stored[name] = r
}

// flushGroups writes the cursors that changed (M9), and lets go of members that are lost for good.
func (h *Hub) flushGroups() {
	now := h.cfg.Now()
	h.mu.Lock()
	maps.DeleteFunc(h.ended, func(_ string, e endedGroup) bool { return now.After(e.until) })
	h.mu.Unlock()
	for _, g := range h.groupList() {
		g.op.Lock()
		if h.clustered() {
			g.giveUpOn(now)
		}
		g.flushLocked()
		g.op.Unlock()
	}
}

func (h *Hub) groupList() []*Group {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.groups))
}

// flushLocked puts the group's record if it has changed; op must be held.
func (g *Group) flushLocked() {
	if g.h.cfg.Groups == nil || g.dead || g.entry == nil {
		return
	}
	r := groupRecord{Format: groupFormat, Cursor: g.cursor()}
	g.mu.Lock()
	again := g.failed
	g.failed = false
	if g.h.clustered() {
		r.Members = g.toKnowLocked()
	}
	g.mu.Unlock()
	value := r.encode()
	if !again && bytes.Equal(value, g.saved) {
		return
	}
	g.saved = value
	g.h.cfg.Groups.Put([]byte(GroupKeyPrefix+g.name), value, func(err error) {
		if err != nil {
			g.h.cfg.Logger.Warn("cursor of a shared subscription not stored", "group", g.name, "err", err)
			g.mu.Lock()
			g.failed = true
			g.mu.Unlock()
			return
		}
		g.passed(&r)
	})
}

// toKnowLocked lists the members that the next leader has to hear from before it gives out what may be theirs: those that
// may have messages of QoS 2, and those that this node has not heard from itself. g.mu must be held.
func (g *Group) toKnowLocked() (list []storedMember) {
	for _, m := range g.members {
		if m.qos == 2 {
			list = append(list, storedMember{ID: m.s.id, Stays: m.s.durable.Load()})
		}
	}
	for id, until := range g.missing {
		list = append(list, storedMember{ID: id, Stays: !until.IsZero()})
	}
	slices.SortFunc(list, func(a, b storedMember) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// passed notes a record that is committed.
func (g *Group) passed(r *groupRecord) {
	g.mu.Lock()
	g.storedLocked(r.Cursor)
	told := map[GuestStream]bool{}
	if g.h.clustered() {
		g.listed = map[string]bool{}
		for _, m := range r.Members {
			g.listed[m.ID] = true
		}
		for _, m := range g.members {
			if m.guest != nil {
				told[m.guest.to.stream] = true
			}
		}
	}
	g.mu.Unlock()
	for to := range told {
		to.Passed(g.name, r.Cursor)
	}
	if g.h.clustered() {
		g.session().room() // members that were not listed may get QoS 2 now
	}
}

func (g *Group) storedLocked(cur Cursor) {
	g.stored = cur
	maps.DeleteFunc(g.held, func(d delivery, _ string) bool {
		next, ok := cur.Next(d.id)
		return ok && next > d.offset
	})
}

// HoldShared says that a stored session has a QoS 2 message of a shared subscription, whose exchange with its client has
// begun or has even ended: the group, whose cursor may be behind it, gives it to nobody [MQTT-4.8.2-4]. It is called
// before the session is attached.
func (h *Hub) HoldShared(name, clientID string, id log.PartitionID, offset log.Offset) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := delivery{id, offset}
	if g := h.groups[name]; g != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.holdLocked(d, clientID)
		return
	}
	if h.held[name] == nil {
		h.held[name] = map[delivery]string{}
	}
	h.held[name][d] = clientID
}

// maxHeld bounds what a group remembers of QoS 2 messages that its cursor has not passed: beyond, a message that has gone to
// a session may come again after a change of the leader.
const maxHeld = 64 << 10

func (g *Group) holdLocked(d delivery, clientID string) {
	if g.held == nil {
		g.held = map[delivery]string{}
	}
	if next, ok := g.stored.Next(d.id); ok && next > d.offset || len(g.held) >= maxHeld {
		return
	}
	g.held[d] = clientID
}

// SharedPassed says whether the stored cursor of a shared subscription has passed a message, so that no restart gives it
// out again. It never blocks and may be called under any lock.
func (h *Hub) SharedPassed(name string, id log.PartitionID, offset log.Offset) bool {
	v, ok := h.shares.Load(name)
	if !ok {
		return true // it has ended, and its cursor with it
	}
	g := v.(*Group)
	g.mu.Lock()
	defer g.mu.Unlock()
	next, ok := g.stored.Next(id)
	return ok && next > offset
}

// lostTime and missingTime are how long a leader waits for a member, and what it may have of QoS 2, that lives on a node
// which is lost, or which it has not heard from since it began to lead: its session has ended with its connection by then,
// or is longer without an owner than a change of owners takes.
const (
	lostTime    = 5 * time.Second
	missingTime = 30 * time.Second
)
