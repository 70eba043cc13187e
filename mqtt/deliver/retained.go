package deliver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/weir-io/weir/log"
)

// ErrRetainedFull: there are as many retained topics as the node may index. The message itself is
// stored; it is just not retained. The client is told 0x97, quota exceeded.
var ErrRetainedFull = errors.New("too many retained topics")

// retainedStore is the index over the table of retained messages, which is the truth (M6). It holds
// every topic and, up to a bound, the messages; the rest is read from the table when someone asks.
type retainedStore struct {
	table  Followed
	stop   func() // following table
	limits *Limits
	now    func() time.Time
	// coldBytes bounds the values that one pass over the table brings into memory.
	coldBytes int

	mu    sync.RWMutex
	root  retainedNode
	count int
	bytes int // of values in memory
}

// retainedNode is one level of topics.
type retainedNode struct {
	children map[string]*retainedNode
	msg      *retainedMsg
	deep     []*retainedMsg // topics with levels beyond retainedDepth
}

// retainedDepth bounds the nodes that one topic takes.
const retainedDepth = 32

// retainedMsg is immutable. A nil value is in the table only.
type retainedMsg struct {
	topic string
	value []byte
}

// storedMessage is a retained message's value in the table.
type storedMessage struct {
	Payload       []byte      `cbor:"1,keyasint"`
	QoS           byte        `cbor:"2,keyasint,omitempty"`
	Timestamp     int64       `cbor:"3,keyasint,omitempty"`
	Publisher     []byte      `cbor:"4,keyasint,omitempty"`
	ContentType   []byte      `cbor:"5,keyasint,omitempty"`
	ResponseTopic []byte      `cbor:"6,keyasint,omitempty"`
	Correlation   []byte      `cbor:"7,keyasint,omitempty"`
	PayloadFormat bool        `cbor:"8,keyasint,omitempty"`
	ExpiresAt     int64       `cbor:"9,keyasint,omitempty"`
	UserProps     [][2][]byte `cbor:"10,keyasint,omitempty"`
}

func encodeRetained(m *Message) ([]byte, error) {
	st := storedMessage{
		Payload: m.Payload, QoS: m.QoS, Timestamp: m.Timestamp, Publisher: m.Publisher, ContentType: m.ContentType,
		ResponseTopic: m.ResponseTopic, Correlation: m.Correlation, PayloadFormat: m.PayloadFormat, ExpiresAt: m.ExpiresAt,
	}
	for _, p := range m.UserProps {
		st.UserProps = append(st.UserProps, [2][]byte{p.Key, p.Value})
	}
	return cbor.Marshal(st)
}

// decodeRetained fills m from a value.
func decodeRetained(m *Message, topic string, value []byte, now int64) error {
	var st storedMessage
	if err := cbor.Unmarshal(value, &st); err != nil {
		return fmt.Errorf("retained message of %q: %w", topic, err)
	}
	m.reset()
	m.ID, m.Offset, m.now = log.PartitionID{}, -1, now
	m.Topic, m.Payload, m.QoS, m.Retain, m.Timestamp = []byte(topic), st.Payload, min(st.QoS, 2), true, st.Timestamp
	m.Publisher, m.ContentType, m.ResponseTopic = st.Publisher, st.ContentType, st.ResponseTopic
	m.Correlation, m.PayloadFormat, m.ExpiresAt = st.Correlation, st.PayloadFormat, st.ExpiresAt
	for _, p := range st.UserProps {
		m.UserProps = append(m.UserProps, log.Header{Key: p[0], Value: p[1]})
	}
	return nil
}

func (r *retainedStore) open(table Followed, limits *Limits, now func() time.Time) (err error) {
	r.table, r.limits, r.now, r.coldBytes = table, limits, now, 4<<20
	if table == nil {
		return nil
	}
	r.stop, err = table.Follow(func(key, value []byte) {
		if validTopic(key) { // nobody could ask for others
			r.apply(string(key), append([]byte(nil), value...))
		}
	})
	return err
}

// close stops following the table.
func (r *retainedStore) close() {
	if r.stop != nil {
		r.stop()
	}
}

func (r *retainedStore) size() (count, bytes int64) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return int64(r.count), int64(r.bytes)
}

// SetRetained makes a message the retained one of its topic, or removes that one when the payload is
// empty [MQTT-3.3.1-6]. done is called once the change is committed, and so visible behind AwaitRetained, or
// with why it is not; it may run on a committer's goroutine. The last to be committed wins, which is
// the order of the table (M6). m is copied before the call returns.
func (h *Hub) SetRetained(m *Message, done func(error)) { h.retained.set(m, done) }

func (r *retainedStore) set(m *Message, done func(error)) {
	topic := string(m.Topic)
	var value []byte
	if len(m.Payload) > 0 {
		var err error
		if value, err = encodeRetained(m); err != nil {
			done(fmt.Errorf("retained message of %q: %w", topic, err))
			return
		}
		if r.full(topic) {
			done(ErrRetainedFull)
			return
		}
	}
	if r.table == nil {
		r.apply(topic, value)
		done(nil)
		return
	}
	r.table.Put([]byte(topic), value, done)
}

// AwaitRetained calls fn once FindRetained knows every retained message that was committed on any node when it was called.
// With an error that is not known. fn never blocks, and may run inside the call.
func (h *Hub) AwaitRetained(ctx context.Context, fn func(error)) {
	if h.retained.table == nil {
		fn(nil)
		return
	}
	h.retained.table.Barrier(ctx, fn)
}

// full says whether a new topic would be one too many.
func (r *retainedStore) full(topic string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.count >= r.limits.RetainedCount && r.root.find([]byte(topic)) == nil
}

// apply brings a committed change into the index; a nil value removes. It takes value over. A topic
// over the limit that slipped through while others were under way is indexed all the same.
func (r *retainedStore) apply(topic string, value []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var msg *retainedMsg
	if len(value) > 0 {
		msg = &retainedMsg{topic: topic, value: value}
		// Without a table the value in memory is the only one.
		if r.table != nil && r.bytes+len(value) > r.limits.RetainedBytes {
			msg.value = nil
		}
	}
	old := r.root.set([]byte(topic), true, 0, msg, topic)
	if old != nil {
		r.count--
		r.bytes -= len(old.value)
	}
	if msg != nil {
		r.count++
		r.bytes += len(msg.value)
	}
}

// set puts msg, nil to remove, and returns what was there.
func (n *retainedNode) set(rest []byte, more bool, depth int, msg *retainedMsg, topic string) (old *retainedMsg) {
	if !more {
		old, n.msg = n.msg, msg
		return old
	}
	if depth == retainedDepth {
		return n.setDeep(msg, topic)
	}
	level, rest, more := cutLevel(rest)
	child := n.children[string(level)]
	if child == nil {
		if msg == nil {
			return nil
		}
		child = &retainedNode{}
		if n.children == nil {
			n.children = map[string]*retainedNode{}
		}
		n.children[string(level)] = child
	}
	old = child.set(rest, more, depth+1, msg, topic)
	if child.msg == nil && len(child.children) == 0 && len(child.deep) == 0 {
		delete(n.children, string(level))
	}
	return old
}

func (n *retainedNode) setDeep(msg *retainedMsg, topic string) (old *retainedMsg) {
	for i, m := range n.deep {
		if m.topic != topic {
			continue
		}
		if n.deep[i] = msg; msg == nil {
			n.deep = append(n.deep[:i], n.deep[i+1:]...)
		}
		return m
	}
	if msg != nil {
		n.deep = append(n.deep, msg)
	}
	return nil
}

// find is the message of exactly one topic.
func (n *retainedNode) find(topic []byte) *retainedMsg {
	rest, more := topic, true
	for depth := 0; more; depth++ {
		if depth == retainedDepth {
			for _, m := range n.deep {
				if m.topic == string(topic) {
					return m
				}
			}
			return nil
		}
		var level []byte
		level, rest, more = cutLevel(rest)
		if n = n.children[string(level)]; n == nil {
			return nil
		}
	}
	return n.msg
}

// collect lists the messages whose topics a filter takes.
func (r *retainedStore) collect(filter string) []*retainedMsg {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.root.collect([]byte(filter), true, 0, filter, nil)
}

func (n *retainedNode) collect(rest []byte, more bool, depth int, filter string, out []*retainedMsg) []*retainedMsg {
	if !more {
		if n.msg != nil {
			out = append(out, n.msg)
		}
		return out
	}
	for _, m := range n.deep {
		if filterTakes(filter, m.topic) {
			out = append(out, m)
		}
	}
	level, rest, more := cutLevel(rest)
	switch string(level) {
	case "#":
		if depth > 0 && n.msg != nil {
			out = append(out, n.msg) // the level above is included
		}
		return n.all(depth, out)
	case "+":
		for name, child := range n.children {
			if depth > 0 || name == "" || name[0] != '$' { // [MQTT-4.7.2-1]
				out = child.collect(rest, more, depth+1, filter, out)
			}
		}
		return out
	}
	if child := n.children[string(level)]; child != nil {
		out = child.collect(rest, more, depth+1, filter, out)
	}
	return out
}

// all lists everything below n; deep topics of n itself were listed by the caller.
func (n *retainedNode) all(depth int, out []*retainedMsg) []*retainedMsg {
	for name, child := range n.children {
		if depth == 0 && name != "" && name[0] == '$' { // [MQTT-4.7.2-1]
			continue
		}
		if child.msg != nil {
			out = append(out, child.msg)
		}
		out = append(out, child.deep...)
		out = child.all(depth+1, out)
	}
	return out
}

// filterTakes matches one filter with one topic (§4.7).
func filterTakes(filter, topic string) bool {
	if topic != "" && topic[0] == '$' && filter != "" && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	f, t := []byte(filter), []byte(topic)
	moreF, moreT := true, true
	for moreF {
		var fl, tl []byte
		fl, f, moreF = cutLevel(f)
		if string(fl) == "#" {
			return true
		}
		if !moreT {
			return false
		}
		tl, t, moreT = cutLevel(t)
		if string(fl) != "+" && string(fl) != string(tl) {
			return false
		}
	}
	return !moreT
}
