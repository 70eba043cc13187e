package mqtt

import (
	"maps"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/session"
)

// outboundQoS2 is the durable side of QoS 2 messages to the client (M9). The window's QoS 2 entries are stored before
// their PUBLISH leaves, with the packet id: after a restart each is sent again with that id, and none of them, nor what
// was completed since the stored cursor was taken, may be sent as new. Everything is one record, rewritten as a whole;
// what changes while a write is under way shares the next one. A retained message, which has no place in the log, is
// stored besides, under a key of its own: retainedout.go.
type outboundQoS2 struct {
	completed map[given]struct{} // since the stored cursor was taken
	before    map[given]struct{} // before the restart, as far as the hub may give it once more; QoS 1 too
	file      stateFile
	messages  map[uint16]*outExtra // stored retained messages, by packet id
	restored  []session.Exchange   // what the records say of the window, until it is made

	asked   bool       // a write that has not begun will take all ids of now
	covered uint64     // end of the window that the write under way has
	resume  *conn.Conn // whose window waits for ids to be stored before it is sent again
}

// given is a message that went to the client. A session may get a record once for itself and once through each shared
// subscription that it is a member of.
type given struct {
	ref   session.Ref
	share string // name of the shared subscription
}

// outbound is the client's o2, made if need be; under mu.
func (cl *client) outbound() *outboundQoS2 {
	if cl.o2 == nil {
		cl.o2 = &outboundQoS2{completed: map[given]struct{}{}, before: map[given]struct{}{}, messages: map[uint16]*outExtra{}}
	}
	return cl.o2
}

// maxCompleted is how many completed exchanges are remembered before the cursor is saved out of turn.
const maxCompleted = 128

// maxPassed is how many are remembered while other members hold up the stored cursor of a shared subscription.
const maxPassed = 1024

// had tells whether the message went to the client before the restart. A shared subscription knows that by itself.
func (o *outboundQoS2) had(m *deliver.Message) bool {
	if o == nil || len(o.before) == 0 || m.Offset < 0 || m.Group != nil {
		return false
	}
	_, ok := o.before[given{ref: refOf(m.ID, m.Offset)}]
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
		stored := func(err error) error { return cl.idsStored(o, err) }
		waits := cl.storeMessages(o, func(err error) error {
			if err != nil {
				o.asked = false
				return stored(err)
			}
			cl.storeOutbound(o, stored)
			return nil
		})
		if !waits {
			cl.storeOutbound(o, stored)
		}
		return nil
	}, nil)
}

func (cl *client) idsStored(o *outboundQoS2, err error) error {
	if cl.o2 != o {
		return nil // of a session that has ended
	}
	cl.reserve(cl.s.Held())
	if err == nil && cl.durable {
		cl.ownShared(o.covered)
	}
	if err := cl.s.IDsStored(o.covered, err == nil); err != nil {
		return err
	}
	cl.storeRest(o)
	if c := o.resume; c != nil {
		o.resume = nil
		cl.srv.loop.Go(func() { cl.resend(c) })
	}
	return nil
}

// ownShared tells shared subscriptions that messages whose ids are stored now are this session's for good: it is not
// the group's cursor that has to give them again; under mu.
func (cl *client) ownShared(end uint64) {
	for u := range cl.s.Unacked(0) {
		if u.N >= end {
			return
		}
		if x, ok := u.Extra.(*outExtra); ok && u.Unstored && x.group != nil {
			x.group.Ack(cl.id, partitionOf(u.Ref), log.Offset(u.Ref.Offset))
		}
	}
}

// storeOutbound writes the record; under mu.
func (cl *client) storeOutbound(o *outboundQoS2, then func(error) error) {
	o.file.write(cl, keyOutbound(cl.id), func() []byte {
		if cl.o2 == o && cl.s != nil {
			o.asked, o.covered = false, cl.storableEnd()
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
func (o *outboundQoS2) done(cl *client, id uint16, g given) {
	if g.ref.Offset < 0 {
		o.dropMessage(cl, id)
		return
	}
	if !cl.durable || g.share != "" && len(o.completed) >= maxPassed {
		return
	}
	o.completed[g] = struct{}{}
	if len(o.completed)%maxCompleted == 0 {
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
		if g.share != "" { // its place is its own
			return cl.srv.hub.SharedPassed(g.share, partitionOf(g.ref), log.Offset(g.ref.Offset))
		}
		next, ok := cur.Next(partitionOf(g.ref))
		return ok && next > log.Offset(g.ref.Offset)
	}
	maps.DeleteFunc(o.before, passed)
	had := len(o.completed)
	maps.DeleteFunc(o.completed, passed)
	if had > 0 && len(o.completed) == 0 && cl.encodeOutbound() == nil {
		cl.storeOutbound(o, func(error) error { return nil })
	}
}
