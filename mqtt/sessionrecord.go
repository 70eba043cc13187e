package mqtt

import (
	"slices"
	"strings"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/packet"
)

// sessionRecord is a durable session in __mqtt_sessions under its client identifier. Numbers of fields are
// never reused. The two QoS 2 records (qos2store.go) have keys of their own, since they change far more often.
type sessionRecord struct {
	Format   int            `cbor:"1,keyasint"` // recordFormat
	Version  byte           `cbor:"2,keyasint"`
	Expiry   uint32         `cbor:"3,keyasint"`
	ClosedAt int64          `cbor:"4,keyasint,omitempty"` // Unix ms, 0 while connected
	Subs     []subRecord    `cbor:"5,keyasint,omitempty"`
	Cursor   deliver.Cursor `cbor:"6,keyasint"`
	Will     *willRecord    `cbor:"7,keyasint,omitempty"`
	// Since format 2:
	Behind deliver.Cursor   `cbor:"8,keyasint"`           // places of Cursor that the floor must not raise
	Since  []deliver.Cursor `cbor:"9,keyasint,omitempty"` // moments of subscribing that Cursor has not passed
	Lost   []lossRecord     `cbor:"10,keyasint,omitempty"`
	// Since format 3:
	Window []windowRows `cbor:"11,keyasint,omitempty"` // unacknowledged; the cursor may have passed them

	// Mark is of the connection that goes on with the session, as it is stored here, at the next owner.
	Mark uint64 `cbor:"12,keyasint,omitempty"`
}

// recordFormat is what is written. Formats 1 and 2 are still read: no floor holds for the cursors of format 1.
const recordFormat = 3

// lossRecord is a deliver.Loss.
type lossRecord struct {
	Topic    []byte `cbor:"1,keyasint"`
	Index    int32  `cbor:"2,keyasint,omitempty"`
	First    int64  `cbor:"3,keyasint,omitempty"`
	Next     int64  `cbor:"4,keyasint"`
	Messages int64  `cbor:"5,keyasint"`
}

type subRecord struct {
	Filter string `cbor:"1,keyasint"`
	QoS    byte   `cbor:"2,keyasint,omitempty"`
	Flags  byte   `cbor:"3,keyasint,omitempty"` // 1 no local, 2 retain as published, retain handling << 2, 16 retained messages are owed
	ID     uint32 `cbor:"4,keyasint,omitempty"`
	Since  int    `cbor:"5,keyasint,omitempty"` // n: its moment is Since[n-1] of the session; 0: passed
}

type willRecord struct {
	Topic   string      `cbor:"1,keyasint"`
	Payload []byte      `cbor:"2,keyasint,omitempty"`
	QoS     byte        `cbor:"3,keyasint,omitempty"`
	Retain  bool        `cbor:"4,keyasint,omitempty"`
	Delay   uint32      `cbor:"5,keyasint,omitempty"`
	Expiry  *uint32     `cbor:"6,keyasint,omitempty"`
	Format  byte        `cbor:"7,keyasint,omitempty"`
	Type    []byte      `cbor:"8,keyasint,omitempty"`
	Reply   []byte      `cbor:"9,keyasint,omitempty"`
	Corr    []byte      `cbor:"10,keyasint,omitempty"`
	User    [][2][]byte `cbor:"11,keyasint,omitempty"`
}

func recordSubs(subs []deliver.Sub, owing map[string]bool) []subRecord {
	out := make([]subRecord, len(subs))
	for i, s := range subs {
		flags := s.RetainHandling << 2
		if s.NoLocal {
			flags |= 1
		}
		if s.RetainAsPublished {
			flags |= 2
		}
		if s.Owed || owing[s.Filter] {
			flags |= 16
		}
		out[i] = subRecord{Filter: s.Filter, QoS: s.QoS, Flags: flags, ID: s.ID}
	}
	return out
}

// trimMoments forgets the moments of subscriptions as far as the session's place has passed them, and returns what is
// left for the record. A shared subscription keeps its own: it may be all that is known of where the group began.
// subs is not changed.
func trimMoments(subs []deliver.Sub, place deliver.Cursor) (left []deliver.Sub, moments []deliver.Cursor, number []int) {
	left, number = subs, make([]int, len(subs))
	for i := range subs {
		since := subs[i].Since
		if since.IsZero() {
			continue
		}
		if !isShared(subs[i].Filter) {
			if since = since.Beyond(place); since.Len() < subs[i].Since.Len() {
				if &left[0] == &subs[0] {
					left = slices.Clone(subs)
				}
				left[i].Since = since
			}
		}
		if since.IsZero() {
			continue
		}
		if n := len(moments); n == 0 || !moments[n-1].Equal(since) {
			moments = append(moments, since)
		}
		number[i] = len(moments)
	}
	return left, moments, number
}

func isShared(filter string) bool { return strings.HasPrefix(filter, "$share/") }

func recordLosses(losses []deliver.Loss) (out []lossRecord) {
	for _, l := range losses {
		out = append(out, lossRecord{l.Partition.Topic[:], l.Partition.Index, int64(l.First), int64(l.Next), l.Messages})
	}
	return out
}

func restoreLosses(in []lossRecord) (out []deliver.Loss) {
	for _, l := range in {
		if len(l.Topic) == len(log.TopicID{}) {
			out = append(out, deliver.Loss{Partition: log.PartitionID{Topic: log.TopicID(l.Topic), Index: l.Index},
				First: log.Offset(l.First), Next: log.Offset(l.Next), Messages: l.Messages})
		}
	}
	return out
}

func restoreSubs(in []subRecord, moments []deliver.Cursor) []deliver.Sub {
	out := make([]deliver.Sub, len(in))
	for i, s := range in {
		out[i] = deliver.Sub{
			Filter: s.Filter, QoS: s.QoS, ID: s.ID, NoLocal: s.Flags&1 != 0, RetainAsPublished: s.Flags&2 != 0,
			RetainHandling: s.Flags >> 2 & 3, Owed: s.Flags&16 != 0,
		}
		if s.Since > 0 && s.Since <= len(moments) {
			out[i].Since = moments[s.Since-1]
		}
	}
	return out
}

func recordWill(w *packet.Will) *willRecord {
	if w == nil {
		return nil
	}
	r := &willRecord{
		Topic: w.Topic, Payload: w.Payload, QoS: w.QoS, Retain: w.Retain, Delay: w.Delay, Format: w.PayloadFormat,
		Type: w.ContentType, Reply: w.ResponseTopic, Corr: w.Correlation,
	}
	if w.HasExpiry {
		r.Expiry = &w.Expiry
	}
	for _, u := range w.User {
		r.User = append(r.User, [2][]byte{u.Name, u.Value})
	}
	return r
}

func (r *willRecord) will() *packet.Will {
	if r == nil {
		return nil
	}
	w := &packet.Will{
		Topic: r.Topic, Payload: r.Payload, QoS: r.QoS, Retain: r.Retain, Delay: r.Delay, PayloadFormat: r.Format,
		ContentType: r.Type, ResponseTopic: r.Reply, Correlation: r.Corr,
	}
	if r.Expiry != nil {
		w.HasExpiry, w.Expiry = true, *r.Expiry
	}
	for _, u := range r.User {
		w.User = append(w.User, packet.UserProperty{Name: u[0], Value: u[1]})
	}
	return w
}
