package mqtt

import (
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/session"
)

// This file is the stored form of outbound QoS 2 exchanges.

// outboundRecord is the stored form. Numbers of fields are never reused.
type outboundRecord struct {
	Format     int                `cbor:"1,keyasint"` // outboundFormat
	Partitions []outboundPartRows `cbor:"2,keyasint"`
	Shares     []outboundShare    `cbor:"3,keyasint,omitempty"` // since format 3
}

// outboundShare is the exchanges of messages that came through a shared subscription.
type outboundShare struct {
	_          struct{} `cbor:",toarray"`
	Name       string
	Partitions []outboundPartRows
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
	rowShared   = 2 // from a shared subscription; of format 2, which did not say from which
	rowStates   = rowReceived | rowShared
)

// outboundFormat is what is written. Formats 1 and 2 are still read: 1, an array of receivedRecord, knew nothing of
// messages without a PUBREC.
const outboundFormat = 3

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
	var own partRows
	shares := map[string]*partRows{}
	add := func(g given, id uint16, received bool) {
		p := &own
		if g.share != "" {
			if p = shares[g.share]; p == nil {
				p = new(partRows)
				shares[g.share] = p
			}
		}
		row := outboundRow{ID: id, Offset: g.ref.Offset}
		if received {
			row.State = rowReceived
		}
		p.add(partitionOf(g.ref), row)
	}
	for g := range cl.o2.completed {
		add(g, 0, true)
	}
	for u := range cl.s.Unacked(0) {
		if u.QoS == 2 {
			add(given{u.Ref, shareOf(u.Extra)}, u.ID, u.Released)
		}
	}
	if len(own.list) == 0 && len(shares) == 0 {
		return nil
	}
	r := outboundRecord{Format: outboundFormat, Partitions: own.list}
	for name, p := range shares {
		r.Shares = append(r.Shares, outboundShare{Name: name, Partitions: p.list})
	}
	return mustCBOR(&r)
}

// partRows gathers rows by partition.
type partRows struct {
	list  []outboundPartRows
	place map[log.PartitionID]int
}

func (p *partRows) add(id log.PartitionID, row outboundRow) {
	at, ok := p.place[id]
	if !ok {
		if p.place == nil {
			p.place = map[log.PartitionID]int{}
		}
		at = len(p.list)
		p.place[id] = at
		p.list = append(p.list, outboundPartRows{Topic: id.Topic[:], Index: id.Index})
	}
	p.list[at].Rows = append(p.list[at].Rows, row)
}

func (cl *client) restoreOutbound(value []byte) error {
	r, err := decodeOutbound(value)
	if err != nil {
		return err
	}
	all := append(r.Shares, outboundShare{Partitions: r.Partitions})
	for _, s := range all {
		for _, p := range s.Partitions {
			if len(p.Topic) != len(log.TopicID{}) {
				return fmt.Errorf("topic id of %d bytes", len(p.Topic))
			}
			for _, row := range p.Rows {
				if row.State > rowStates {
					return fmt.Errorf("outbound QoS 2 exchange %d has state %d, this version knows states to %d", row.ID, row.State, rowStates)
				}
				cl.restoreRow(given{session.Ref{Topic: [16]byte(p.Topic), Index: p.Index, Offset: row.Offset}, s.Name}, row)
			}
		}
	}
	return nil
}

// restoreRow takes up one exchange, and sees to it that its message is not given as new.
func (cl *client) restoreRow(g given, row outboundRow) {
	o := cl.outbound()
	if row.State&rowShared != 0 {
		g.share = cl.holdUnnamed(g)
	}
	switch {
	case g.share != "":
		cl.srv.hub.HoldShared(g.share, cl.id, partitionOf(g.ref), log.Offset(row.Offset))
	case row.Offset >= 0:
		o.before[g] = struct{}{}
	}
	if row.ID == 0 {
		o.completed[g] = struct{}{}
		return
	}
	x := session.Exchange{ID: row.ID, QoS: 2, Released: row.State&rowReceived != 0, Ref: g.ref}
	switch m := o.messages[row.ID]; {
	case g.share != "":
		x.Extra = &outExtra{share: g.share}
	case row.Offset >= 0:
	case m != nil:
		x.Extra = m
	default: // of an earlier build, or refused by the client: PUBREL frees its id there
		x.Released = true
	}
	o.restored = append(o.restored, x)
}

// holdUnnamed does for a message of format 2 what is known: it came through one of the session's shared subscriptions.
func (cl *client) holdUnnamed(g given) (last string) {
	for i := range cl.subs {
		if isShared(cl.subs[i].Filter) {
			last = cl.subs[i].Filter
			cl.srv.hub.HoldShared(last, cl.id, partitionOf(g.ref), log.Offset(g.ref.Offset))
		}
	}
	return last
}

// decodeOutbound reads every format.
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
	if r.Format < 2 || r.Format > outboundFormat {
		return r, fmt.Errorf("outbound QoS 2 record has format %d, this version reads 1 to %d", r.Format, outboundFormat)
	}
	return r, nil
}
