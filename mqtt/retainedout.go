package mqtt

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/mqtt/packet"
	"github.com/weir-io/weir/mqtt/session"
)

// This file stores retained messages of QoS 2 that are on their way to the client. The table of retained messages will not
// do: another message may have taken the place there, which a client that holds the packet id would drop as a repeat. So
// each is stored under a key of its own, from before its PUBLISH leaves until its exchange ends. // M9

// messageRecord is the stored form.
type messageRecord struct {
	_       struct{} `cbor:",toarray"`
	Version byte     // of the protocol, in which Frame is encoded
	IDs     []uint32 // subscription identifiers, which Frame does not have
	Frame   []byte
}

// storeMessages stores the messages whose ids are to be stored, and has then called when all are committed; false when
// there are none. Under mu.
func (cl *client) storeMessages(o *outboundQoS2, then func(error) error) (some bool) {
	left := 0
	var failed error
	for u := range cl.s.Unacked(0) {
		x, ok := u.Extra.(*outExtra)
		if !ok || x.frame == nil || !u.Unstored || x.put {
			continue
		}
		x.put, cl.stored = true, true
		left++
		o.messages[u.ID] = x
		value := mustCBOR(&messageRecord{Version: x.version, IDs: x.ids, Frame: x.frame})
		cl.srv.putSession(cl.id, keyMessage(cl.id, u.ID), value, func(err error) {
			cl.post(func(err error) error {
				x.put, x.kept = err == nil, err == nil
				failed = errors.Join(failed, err)
				if left--; left > 0 || cl.o2 != o {
					return nil
				}
				return then(failed)
			}, err)
		})
	}
	return left > 0
}

// storableEnd is the end of the part of the window whose ids may be stored: up to the first message that is not stored
// itself; under mu.
func (cl *client) storableEnd() uint64 {
	for u := range cl.s.Unacked(0) {
		if x, ok := u.Extra.(*outExtra); ok && u.Unstored && x.frame != nil && !x.kept {
			return u.N
		}
	}
	return cl.s.WindowEnd()
}

// storeRest goes on behind a write that ended before a message that came too late for it; under mu.
func (cl *client) storeRest(o *outboundQoS2) {
	for u := range cl.s.Unacked(o.covered) {
		if !u.Unstored {
			continue
		}
		if x, ok := u.Extra.(*outExtra); !ok || !x.put || x.kept { // else its commit goes on
			cl.storeIDs()
		}
		return
	}
}

// dropMessage removes the message of an exchange that has ended. When the node goes down before the record of exchanges
// is written again, PUBREL goes out once more, for which it takes no message.
func (o *outboundQoS2) dropMessage(cl *client, id uint16) {
	if o.messages[id] == nil {
		return
	}
	delete(o.messages, id)
	cl.srv.putSession(cl.id, keyMessage(cl.id, id), nil, func(err error) {
		if err != nil {
			cl.srv.stats.storeErrors.Add(1)
		}
	})
}

// restoreMessage takes one up, before the record of exchanges that names it.
func (cl *client) restoreMessage(id string, value []byte) error {
	n, err := strconv.ParseUint(id, 10, 16)
	if err != nil {
		return fmt.Errorf("message under %q: %w", id, err)
	}
	var r messageRecord
	if err := cbor.Unmarshal(value, &r); err != nil {
		return fmt.Errorf("message with packet id %s: %w", id, err)
	}
	x := &outExtra{version: r.Version, ids: r.IDs, frame: r.Frame, put: true, kept: true}
	if _, err := x.decode(); err != nil {
		return fmt.Errorf("message with packet id %s: %w", id, err)
	}
	cl.outbound().messages[uint16(n)] = x
	return nil
}

// dropUnused removes messages that no exchange needs: the node went down before the id of one was stored, or before it was
// removed. Under mu.
func (cl *client) dropUnused() {
	if cl.o2 == nil || len(cl.o2.messages) == 0 {
		return
	}
	used := map[uint16]bool{}
	for u := range cl.s.Unacked(0) {
		used[u.ID] = u.Ref.Offset < 0
	}
	for id := range cl.o2.messages {
		if !used[id] {
			cl.o2.dropMessage(cl, id)
		}
	}
}

func (x *outExtra) decode() (p packet.Publish, err error) {
	f, err := packet.Split(x.frame, 0)
	switch {
	case err != nil:
		return p, err
	case x.version != packet.V5 && x.version != packet.V311 || f.Type() != packet.PUBLISH || f.Size != len(x.frame):
		return p, fmt.Errorf("a %s of protocol version %d in %d bytes of %d", f.Type(), x.version, f.Size, len(x.frame))
	}
	err = p.Decode(f, x.version)
	return p, err
}

// delivery is the message once more, in the protocol version of the connection.
func (x *outExtra) delivery(version byte) (*session.Delivery, error) {
	frame := x.frame
	if version != x.version || len(x.ids) > 0 {
		p, err := x.decode()
		if err != nil {
			return nil, err
		}
		if version == packet.V5 {
			p.SubscriptionIDs = x.ids
		}
		frame = packet.AppendPublish(nil, &p, version)
	}
	return &session.Delivery{Frame: frame, IDAt: packetIDAt(frame, len(packet.PublishTopic(frame)))}, nil
}
