package mqtt

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/deliver"
)

// A stream between a node that has members of shared subscriptions and the leader of these begins as a client's that is passed
// on, but for an origin that names the partition of the sessions table the groups belong to. After the answer, taken, both
// sides send frames:
//
//	4  length of what follows, big endian
//	1  kind
//	   body
//
// Numbers are those of memberships, 8 bytes; a place is topic id, partition index and offset, 28 bytes.
const (
	frameAlive  = 'K' // both: nothing, from time to time
	frameMember = 'M' // to the leader: shareMember
	frameGone   = 'L' // to the leader: shareGone
	frameDone   = 'D' // to the leader: number, place
	frameBack   = 'B' // to the leader: number, place; for another member
	frameFull   = 'F' // to the leader: number, place; for another member, and no more before Room
	frameRoom   = 'R' // to the leader: number
	frameGive   = 'G' // from the leader: number, QoS, record (deliver.Message.AppendRecord)
	frameOthers = 'O' // from the leader: 0 or 1, name of the group
	framePassed = 'P' // from the leader: sharePassed
)

const (
	shareVersion = 1
	frameHead    = 4 + 1
	// frameMax bounds a frame. A record that is larger is given to members on the leader's node only.
	frameMax = 16 << 20
	// shareBuffer is what waits for a stream before members at its other end are given nothing more.
	shareBuffer = 256 << 10
)

// originShares is what a stream says in place of where a client is. Numbers of fields are never reused.
type originShares struct {
	Version   int `cbor:"1,keyasint"` // shareVersion
	Partition int `cbor:"2,keyasint"`
}

// shareMember is a deliver.Membership.
type shareMember struct {
	Number uint64         `cbor:"1,keyasint"`
	Group  string         `cbor:"2,keyasint"`
	Client string         `cbor:"3,keyasint"`
	QoS    byte           `cbor:"4,keyasint,omitempty"`
	Online bool           `cbor:"5,keyasint,omitempty"`
	Stays  bool           `cbor:"6,keyasint,omitempty"`
	Begin  deliver.Cursor `cbor:"7,keyasint"`
	Held   []shareHeld    `cbor:"8,keyasint,omitempty"`
	Open1  []shareHeld    `cbor:"9,keyasint,omitempty"`
	Open2  []shareHeld    `cbor:"10,keyasint,omitempty"`
	Term   uint64         `cbor:"11,keyasint,omitempty"`
}

type shareHeld struct {
	_       struct{} `cbor:",toarray"`
	Topic   []byte
	Index   int32
	Offsets []log.Offset
}

type shareGone struct {
	Number uint64          `cbor:"1,keyasint"`
	Group  string          `cbor:"2,keyasint"`
	Client string          `cbor:"3,keyasint"`
	How    deliver.Leaving `cbor:"4,keyasint,omitempty"`
}

type sharePassed struct {
	Group  string         `cbor:"1,keyasint"`
	Cursor deliver.Cursor `cbor:"2,keyasint"`
}

var errShareFrame = errors.New("not what nodes send each other about shared subscriptions")

func toWire(ms *deliver.Membership) *shareMember {
	return &shareMember{
		Number: ms.Number, Group: ms.Group, Client: ms.Client, QoS: ms.QoS, Online: ms.Online, Stays: ms.Stays, Begin: ms.Begin,
		Term: ms.Term, Held: heldToWire(ms.Held), Open1: heldToWire(ms.Open1), Open2: heldToWire(ms.Open2),
	}
}

func heldToWire(list []deliver.Held) (out []shareHeld) {
	for _, h := range list {
		out = append(out, shareHeld{Topic: h.ID.Topic[:], Index: h.ID.Index, Offsets: h.Offsets})
	}
	return out
}

func (m *shareMember) membership() (ms deliver.Membership, err error) {
	ms = deliver.Membership{Number: m.Number, Term: m.Term, Group: m.Group, Client: m.Client, QoS: m.QoS, Online: m.Online, Stays: m.Stays, Begin: m.Begin}
	var errs [3]error
	ms.Held, errs[0] = heldOf(m.Held)
	ms.Open1, errs[1] = heldOf(m.Open1)
	ms.Open2, errs[2] = heldOf(m.Open2)
	return ms, errors.Join(errs[:]...)
}

func heldOf(list []shareHeld) (out []deliver.Held, err error) {
	for _, w := range list {
		if len(w.Topic) != len(log.TopicID{}) {
			return nil, fmt.Errorf("%w: topic id of %d bytes", errShareFrame, len(w.Topic))
		}
		out = append(out, deliver.Held{ID: log.PartitionID{Topic: log.TopicID(w.Topic), Index: w.Index}, Offsets: w.Offsets})
	}
	return out, nil
}

// frames is what waits to be sent over a stream. Not for concurrent use.
type frames struct{ buf *conn.Buffer }

// begin opens a frame and returns what end takes.
func (f *frames) begin(kind byte, size int) (at int) {
	if f.buf == nil {
		f.buf = conn.Get(frameHead + size)
	}
	at = len(f.buf.B)
	f.buf.B = append(f.buf.B, 0, 0, 0, 0, kind)
	return at
}

func (f *frames) end(at int) {
	binary.BigEndian.PutUint32(f.buf.B[at:], uint32(len(f.buf.B)-at-4))
}

func (f *frames) control(kind byte, v any) {
	at := f.begin(kind, 64)
	f.buf.B = append(f.buf.B, mustCBOR(v)...)
	f.end(at)
}

// number appends a frame about a membership, and about a message where there is a place.
func (f *frames) number(kind byte, number uint64, rest []byte) {
	at := f.begin(kind, 64)
	f.buf.B = append(binary.BigEndian.AppendUint64(f.buf.B, number), rest...)
	f.end(at)
}

func appendNumber(b []byte, number uint64) []byte { return binary.BigEndian.AppendUint64(b, number) }

func (f *frames) len() int {
	if f.buf == nil {
		return 0
	}
	return len(f.buf.B)
}

// take hands over what waits.
func (f *frames) take() *conn.Buffer {
	b := f.buf
	f.buf = nil
	return b
}

// cutFrame finds a whole frame at the beginning of b; size is 0 while b ends before it does.
func cutFrame(b []byte) (kind byte, body []byte, size int, err error) {
	if len(b) < frameHead {
		return 0, nil, 0, nil
	}
	n := binary.BigEndian.Uint32(b)
	if n == 0 || n > frameMax {
		return 0, nil, 0, fmt.Errorf("%w: a frame of %d bytes", errShareFrame, n)
	}
	if size = 4 + int(n); len(b) < size {
		return 0, nil, 0, nil
	}
	return b[4], b[frameHead:size], size, nil
}

// cutNumber splits the body of a frame about a membership.
func cutNumber(body []byte) (number uint64, rest []byte, err error) {
	if len(body) < 8 {
		return 0, nil, fmt.Errorf("%w: it has %d bytes", errShareFrame, len(body))
	}
	return binary.BigEndian.Uint64(body), body[8:], nil
}

func decodeFrame(body []byte, v any) error {
	if err := cbor.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %w", errShareFrame, err)
	}
	return nil
}
