package mqtt

import (
	"errors"
	"strconv"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/log"
)

// intentRecord is the stored form, an array to keep it small: packet id, topic, partition, token, log end.
type intentRecord struct {
	_      struct{} `cbor:",toarray"`
	ID     uint16
	Topic  string
	Index  int32
	Token  string
	LogEnd int64
}

const (
	kindInbound  = "i"
	kindMessage  = "m" // and a packet id; sorts before kindOutbound
	kindOutbound = "o"
)

func keyInbound(id string) []byte  { return []byte(id + "\x00" + kindInbound) }
func keyOutbound(id string) []byte { return []byte(id + "\x00" + kindOutbound) }
func keyMessage(id string, packetID uint16) []byte {
	return strconv.AppendUint([]byte(id+"\x00"+kindMessage), uint64(packetID), 10)
}

// stateFile writes one small record with at most one write under way: whoever asks meanwhile waits for the
// next. All methods under the client's mu.
type stateFile struct {
	writing bool
	flying  []func(error) error // wait for the write under way
	waiting []func(error) error // wait for the next one
}

// write arranges for the state to be stored as encode gives it, and for then to run under mu afterwards.
func (f *stateFile) write(cl *client, key []byte, encode func() []byte, then func(error) error) {
	f.waiting = append(f.waiting, then)
	if f.writing {
		return
	}
	f.writing = true
	f.flying, f.waiting = f.waiting, f.flying[:0]
	cl.stored = true
	value := encode()
	put := func() {
		cl.srv.putSession(cl.id, key, value, func(err error) {
			cl.post(func(err error) error { return f.written(cl, key, encode, err) }, err)
		})
	}
	put()
}

func (f *stateFile) written(cl *client, key []byte, encode func() []byte, err error) (first error) {
	done := f.flying
	f.flying = nil
	f.writing = false
	for _, then := range done {
		first = errors.Join(first, then(err))
	}
	if next := f.waiting; len(next) > 0 {
		f.waiting = next[:len(next)-1]
		f.write(cl, key, encode, next[len(next)-1])
	}
	return first
}

// encodeIntents makes the stored form, nil (delete) when nothing is open.
func (cl *client) encodeIntents() []byte {
	if cl.q2 == nil || len(cl.q2.intents) == 0 {
		return nil
	}
	list := make([]intentRecord, 0, len(cl.q2.intents))
	for id, in := range cl.q2.intents {
		list = append(list, intentRecord{ID: id, Topic: in.topic, Index: in.index, Token: in.token, LogEnd: int64(in.logEnd)})
	}
	return mustCBOR(list)
}

func (cl *client) restoreInbound(value []byte) error {
	var list []intentRecord
	if err := cbor.Unmarshal(value, &list); err != nil {
		return err
	}
	cl.q2 = &inboundQoS2{intents: map[uint16]*intent{}}
	for _, r := range list {
		cl.q2.intents[r.ID] = &intent{
			seq: cl.s.Restored(r.ID, false), topic: r.Topic, index: r.Index, token: r.Token, logEnd: log.Offset(r.LogEnd), unknown: true,
		}
	}
	return nil
}
