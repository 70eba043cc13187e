package mqtt

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/mqtt/deliver"
)

// keyFloor is the record that holds for all sessions of a partition that are away, beside their own: see
// deliver.Absence. Earlier builds had one under keyFloorOfAll that holds for every partition without a floor of its own.
const (
	keyFloor      = "\x00floor/p"
	keyFloorOfAll = "\x00floor"
)

// floorRecord is stored under keyFloor. It raises the cursor of every session record that says the session was
// not connected, wherever that cursor is not marked as behind.
type floorRecord struct {
	Format int            `cbor:"1,keyasint"` // floorFormat
	Floor  deliver.Cursor `cbor:"2,keyasint"`
}

const floorFormat = 1

// absentees keeps what is stored of absent sessions near the end of the log, by at most one batch of records a
// second. The order is what matters: the floor is put only when the cursors it must not raise are committed, and so is
// every record by which a session that it was taken for absent became connected.
type absentees struct {
	mu       sync.Mutex
	floors   []*deliver.Cursor // put last, by partition of the table, nil where another node does it; none of its places ever falls
	opening  [2]int            // records of connecting sessions under way, by turn
	turn     int
	restored []*client // stored as connected, or behind what the hub may know better by now
	// lost is what retention took from sessions by client identifier: of few, so that clients do not carry it.
	lost map[string][]deliver.Loss

	// owned by the goroutine of everySecond
	next    *deliver.Absence  // becomes the floor
	holders []*deliver.Cursor // the floors that there were when next was taken
	waiting atomic.Int32      // for cursors under way
	failed  atomic.Bool
}

// connecting counts a record that says that a session is connected, until done is called.
func (a *absentees) connecting() (done func(error)) {
	a.mu.Lock()
	turn := a.turn
	a.opening[turn]++
	a.mu.Unlock()
	return func(err error) {
		if err != nil {
			a.failed.Store(true)
		}
		a.mu.Lock()
		a.opening[turn]--
		a.mu.Unlock()
	}
}

// mark protects places below the floor, which are not the floor's to raise. There are such during the pass after a
// restart only; what is marked then is written again afterwards. Under cl.mu.
func (a *absentees) mark(cl *client, cur *deliver.Cursor) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if floor := a.floors[cl.srv.partitionFor(cl.id)]; floor != nil && cur.MarkBelow(*floor) && cl.srv.hub.Rebuilding() {
		cl.stale = true
		a.restored = append(a.restored, cl)
	}
}

func (a *absentees) init(partitions int) { a.floors = make([]*deliver.Cursor, partitions) }

// restore takes up the floor of a partition as whoever owned it before left it.
func (a *absentees) restore(partition int, value []byte) error {
	var r floorRecord
	if value != nil {
		if err := cbor.Unmarshal(value, &r); err != nil {
			return fmt.Errorf("floor of absent sessions: %w", err)
		}
		if r.Format != floorFormat {
			return fmt.Errorf("floor of absent sessions has format %d, this version reads %d", r.Format, floorFormat)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.floors[partition] = &r.Floor
	return nil
}

// leave ends what restore began: from now on another node puts the floor.
func (a *absentees) leave(partition int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.floors[partition] = nil
}

// place finds where a stored session stands.
func (a *absentees) place(cl *client, format int, behind deliver.Cursor) {
	a.mu.Lock()
	defer a.mu.Unlock()
	cl.cursor.MarkBehind(behind)
	if floor := a.floors[cl.srv.partitionFor(cl.id)]; floor != nil && format >= 2 && cl.closedAt != 0 {
		cl.cursor.Raise(*floor)
	}
	if cl.stale = cl.closedAt == 0 || format < 2; cl.stale || behind.Len() > 0 {
		a.restored = append(a.restored, cl)
	}
}

// tick is called once a second.
func (a *absentees) tick(s *Server) {
	if a.next != nil && !a.finish(s) {
		return
	}
	a.refresh(s)
	a.mu.Lock()
	a.holders = append(a.holders[:0], a.floors...) // before the hub is asked: a partition that comes later has its own sessions
	a.mu.Unlock()
	now, ok := s.hub.Absent()
	if !ok {
		return
	}
	a.mu.Lock()
	if a.opening[1-a.turn] == 0 { // else the records of two turns ago are still under way
		a.turn = 1 - a.turn
		a.next = &now
	}
	a.mu.Unlock()
	if a.next == nil {
		return
	}
	a.failed.Store(false)
	for _, id := range now.Behind {
		cl := s.registry.find(id)
		if cl == nil {
			continue // it has just ended
		}
		a.waiting.Add(1)
		cl.saveAbsent(func(err error) {
			if err != nil {
				a.failed.Store(true)
			}
			a.waiting.Add(-1)
		})
	}
}

// finish puts the floor when everything it builds on is committed; false when that is not yet so.
func (a *absentees) finish(s *Server) bool {
	a.mu.Lock()
	opening := a.opening[1-a.turn]
	a.mu.Unlock()
	if a.waiting.Load() > 0 || opening > 0 {
		return false
	}
	done := a.next
	a.next = nil
	if a.failed.Load() {
		return true
	}
	s.hub.Noted(*done)
	for _, p := range s.holdings.inUse() {
		a.raise(s, p, done.Floor)
	}
	return true
}

// raise puts the floor of one partition.
func (a *absentees) raise(s *Server, partition int, floor deliver.Cursor) {
	a.mu.Lock()
	defer a.mu.Unlock() // through Put: behind leave no floor of ours may follow
	old := a.floors[partition]
	if old == nil || old != a.holders[partition] {
		return
	}
	floor = floor.Clone()
	floor.RaiseKnown(*old)
	if floor.Equal(*old) {
		return // C6: an idle node writes nothing
	}
	*old = floor
	s.cfg.Sessions.Put(s.holdings.homes[partition].ownership(), []byte(keyFloor), mustCBOR(&floorRecord{floorFormat, floor}), func(err error) {
		if err != nil {
			s.stats.storeErrors.Add(1)
		}
	})
}

// refresh writes records that a restart, or a short visit during the pass after it, left behind what is known now.
func (a *absentees) refresh(s *Server) {
	a.mu.Lock()
	none := len(a.restored) == 0
	a.mu.Unlock()
	if none || s.hub.Rebuilding() {
		return
	}
	a.mu.Lock()
	list := a.restored
	n := min(len(list), refreshPerTick)
	a.restored = slices.Clone(list[n:])
	a.mu.Unlock()
	for _, cl := range list[:n] {
		if cl.moveOn() {
			cl.save()
		}
	}
}

// refreshPerTick bounds the records written a second after a restart.
const refreshPerTick = 4096

// moveOn takes an absent client's place from the hub; false when its record says the same already.
func (cl *client) moveOn() (changed bool) {
	cl.mu.Lock()
	was, stale, away := cl.cursor.Behind(), cl.stale, cl.c == nil && cl.s != nil
	cl.mu.Unlock()
	if !away || !cl.readCursor() {
		return false
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return stale || !cl.cursor.Behind().Equal(was)
}

// saveAbsent writes the record of a session in which something new waits.
func (cl *client) saveAbsent(done func(error)) {
	cl.readCursor()
	cl.saveThen(done)
}

// lost notes what retention took from the client's session: `weir audit` finds it in the record. It runs under
// the hub's locks.
func (s *Server) lost(id string, l deliver.Loss) {
	cl := s.registry.find(id)
	if cl == nil {
		return
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	s.absent.setLost(id, addLoss(s.absent.lostBy(id), l))
	if cl.durable && !cl.dirty {
		cl.dirty = true
		s.cursors.add(cl)
	}
}

// lostBy is what a session lost; setLost replaces it, nil to forget it. Both under the client's mu.
func (a *absentees) lostBy(id string) []deliver.Loss {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lost[id]
}

func (a *absentees) setLost(id string, all []deliver.Loss) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(all) == 0 {
		delete(a.lost, id)
		return
	}
	if a.lost == nil {
		a.lost = map[string][]deliver.Loss{}
	}
	a.lost[id] = all
}

// addLoss joins a loss with what was lost in the partition before. A pass after a restart may find the same again.
func addLoss(all []deliver.Loss, l deliver.Loss) []deliver.Loss {
	all = slices.Clone(all) // a record being made may be looking at the old list
	i := slices.IndexFunc(all, func(o deliver.Loss) bool { return o.Partition == l.Partition })
	if i < 0 {
		all = append(all, l)
	} else if o := &all[i]; l.Next > o.Next {
		o.Messages += min(l.Messages, int64(l.Next-max(l.First, o.Next)))
		o.First, o.Next = min(o.First, l.First), l.Next
	}
	return all
}
