package mqtt

import (
	"fmt"
	"maps"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/session"
)

// outboundQoS2 is the durable side of QoS 2 messages to the client (M9). The window's QoS 2 entries are stored before
// their PUBLISH leaves, with the packet id: after a restart each is sent again with that id, and none of them, nor what
// was completed since the stored cursor was taken, may be sent as new. Everything is one record, rewritten as a whole;
// what changes while a write is under way shares the next one.
type outboundQoS2 struct {
	completed map[given]struct{} // since the stored cursor was taken
	before    map[given]struct{} // before the restart, as far as the hub may give it once more
	file      stateFile

	asked   bool       // a write that has not begun will take all ids of now
	covered uint64     // end of the window that the write under way has
	resume  *conn.Conn // whose window waits for ids to be stored before it is sent again
}

// given is a message that went to the client. A session may get a record once for itself and once as a member of a
// shared subscription.
type given struct {
	ref    session.Ref
	shared bool
}

// outbound is the client's o2, made if need be; under mu.
func (cl *client) outbound() *outboundQoS2 {
	if cl.o2 == nil {
		cl.o2 = &outboundQoS2{completed: map[given]struct{}{}}
	}
	return cl.o2
}

// maxCompleted is how many completed exchanges are remembered before the cursor is saved out of turn.
const maxCompleted = 128

// had tells whether the message went to the client before the restart.
func (o *outboundQoS2) had(m *deliver.Message) bool {
	if o == nil || len(o.before) == 0 || m.Offset < 0 {
		return false
	}
	g := given{refOf(m.ID, m.Offset), m.Group != nil}
	_, ok := o.before[g]
	if ok && g.shared {
		delete(o.before, g)
	}
	return ok
}

// storeIDs has the window's QoS 2 entries stored, after which their messages leave; under mu. The write begins on the
// client's own turn: the hub calls with its locks held, and deliveries until then share the write.
func (cl *client) storeIDs() {
	o := cl.outbound()
	if o.asked {
		return
	}
	o.asked = true
	cl.post(func(error) error {
		switch {
		case cl.o2 != o:
			return nil
		case !cl.durable: // this connection's session has nothing that survives it
			o.asked, o.covered = false, cl.s.WindowEnd()
			return cl.idsStored(o, nil)
		}
		cl.storeOutbound(o, func(err error) error { return cl.idsStored(o, err) })
		return nil
	}, nil)
}

func (cl *client) idsStored(o *outboundQoS2, err error) error {
	if cl.o2 != o {
		return nil // of a session that has ended
	}
	cl.reserve(cl.s.Held())
	if err := cl.s.IDsStored(o.covered, err == nil); err != nil {
		return err
	}
	if c := o.resume; c != nil {
		o.resume = nil
		cl.srv.loop.Go(func() { cl.resend(c) })
	}
	return nil
}

// storeOutbound writes the record; under mu.
func (cl *client) storeOutbound(o *outboundQoS2, then func(error) error) {
	o.file.write(cl, keyOutbound(cl.id), func() []byte {
		if cl.o2 == o && cl.s != nil {
			o.asked, o.covered = false, cl.s.WindowEnd()
		}
		return cl.encodeOutbound()
	}, then)
}

// Received implements session.Effects: a PUBREC is stored before PUBREL leaves. // M9
func (cl *client) Received(id uint16, _ session.Ref) {
	if !cl.durable {
		cl.post(func(error) error { return cl.s.ReceivedStored(id, true) }, nil)
		return
	}
	o := cl.outbound()
	cl.storeOutbound(o, func(err error) error {
		if cl.o2 != o {
			return nil
		}
		return cl.s.ReceivedStored(id, err == nil)
	})
}

// done moves a completed exchange to those that only the cursor has to pass. Nothing is written: the record has it
// already, and after a crash PUBREL, or the PUBLISH that the client had refused, just goes out once more.
func (o *outboundQoS2) done(cl *client, g given) {
	if g.ref.Offset < 0 || !cl.durable {
		return
	}
	o.completed[g] = struct{}{}
	if len(o.completed) == maxCompleted {
		cl.srv.loop.Go(cl.saveCursor)
	}
}

// trimCompleted forgets the exchanges that a stored cursor has passed.
func (cl *client) trimCompleted(cur deliver.Cursor) {
	o := cl.o2
	if o == nil {
		return
	}
	passed := func(g given, _ struct{}) bool {
		next, ok := cur.Next(partitionOf(g.ref))
		return ok && next > log.Offset(g.ref.Offset)
	}
	// The place of a shared subscription is its own; what it gives again is struck off by had.
	maps.DeleteFunc(o.before, func(g given, _ struct{}) bool { return !g.shared && passed(g, struct{}{}) })
	had := len(o.completed)
	maps.DeleteFunc(o.completed, passed)
	if had > 0 && len(o.completed) == 0 && cl.encodeOutbound() == nil {
		cl.storeOutbound(o, func(error) error { return nil })
	}
}

// outboundRecord is the stored form. Numbers of fields are never reused.
type outboundRecord struct {
	Format     int                `cbor:"1,keyasint"` // outboundFormat
	Partitions []outboundPartRows `cbor:"2,keyasint"`
}

// outboundPartRows is the exchanges of one partition's messages. Retained messages stand under offset -1 of any.
type outboundPartRows struct {
	_     struct{} `cbor:",toarray"`
	Topic []byte
	Index int32
	Rows  []outboundRow
}

type outboundRow struct {
	_      struct{} `cbor:",toarray"`
	ID     uint16   // 0: completed
	State  byte
	Offset int64
}

// Bits of a row's state.
const (
	rowReceived = 1 // PUBREC came
	rowShared   = 2 // from a shared subscription
	rowStates   = rowReceived | rowShared
)

// outboundFormat is what is written. Format 1, an array of receivedRecord, is still read: it knew nothing of messages
// without a PUBREC.
const outboundFormat = 2

type receivedRecord struct {
	_      struct{} `cbor:",toarray"`
	ID     uint16
	Topic  []byte
	Index  int32
	Offset int64
}

// encodeOutbound makes the stored form, nil (delete) when nothing is open; under mu.
func (cl *client) encodeOutbound() []byte {
	if cl.o2 == nil || cl.s == nil || !cl.durable {
		return nil
	}
	r := outboundRecord{Format: outboundFormat}
	place := map[log.PartitionID]int{}
	add := func(ref session.Ref, id uint16, received, shared bool) {
		p := partitionOf(ref)
		state := byte(0)
		if received {
			state |= rowReceived
		}
		if shared {
			state |= rowShared
		}
		at, ok := place[p]
		if !ok {
			at = len(r.Partitions)
			place[p] = at
			r.Partitions = append(r.Partitions, outboundPartRows{Topic: p.Topic[:], Index: p.Index})
		}
		rows := &r.Partitions[at].Rows
		*rows = append(*rows, outboundRow{ID: id, State: state, Offset: ref.Offset})
	}
	for g := range cl.o2.completed {
		add(g.ref, 0, true, g.shared)
	}
	for u := range cl.s.Unacked(0) {
		if u.QoS == 2 {
			add(u.Ref, u.ID, u.Released, isSharedExtra(u.Extra))
		}
	}
	if len(r.Partitions) == 0 {
		return nil
	}
	return mustCBOR(&r)
}

func (cl *client) restoreOutbound(value []byte) error {
	r, err := decodeOutbound(value)
	if err != nil {
		return err
	}
	o := cl.outbound()
	o.before = map[given]struct{}{}
	var window []session.Exchange
	for _, p := range r.Partitions {
		if len(p.Topic) != 16 {
			return fmt.Errorf("topic id of %d bytes", len(p.Topic))
		}
		for _, row := range p.Rows {
			if row.State > rowStates {
				return fmt.Errorf("outbound QoS 2 exchange %d has state %d, this version knows states to %d", row.ID, row.State, rowStates)
			}
			g := given{session.Ref{Topic: [16]byte(p.Topic), Index: p.Index, Offset: row.Offset}, row.State&rowShared != 0}
			o.before[g] = struct{}{}
			if row.ID == 0 {
				o.completed[g] = struct{}{}
				continue
			}
			x := session.Exchange{ID: row.ID, Released: row.State&rowReceived != 0, Ref: g.ref}
			if g.shared {
				x.Extra = &outExtra{shared: true}
			}
			window = append(window, x)
		}
	}
	cl.s.Restore(window)
	return nil
}

// decodeOutbound reads either format.
func decodeOutbound(value []byte) (r outboundRecord, err error) {
	if len(value) > 0 && value[0]>>5 == 4 { // an array: format 1
		var list []receivedRecord
		if err := cbor.Unmarshal(value, &list); err != nil {
			return r, err
		}
		for _, x := range list {
			r.Partitions = append(r.Partitions, outboundPartRows{Topic: x.Topic, Index: x.Index,
				Rows: []outboundRow{{ID: x.ID, State: rowReceived, Offset: x.Offset}}})
		}
		return r, nil
	}
	if err := cbor.Unmarshal(value, &r); err != nil {
		return r, err
	}
	if r.Format != outboundFormat {
		return r, fmt.Errorf("outbound QoS 2 record has format %d, this version reads 1 and %d", r.Format, outboundFormat)
	}
	return r, nil
}
